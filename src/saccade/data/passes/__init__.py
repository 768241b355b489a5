"""Passes over a whole data set: convert, verify, statistics, survey; on many machines by shards."""
