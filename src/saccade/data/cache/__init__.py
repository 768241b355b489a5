"""Frames decoded once to a frame store or to short clips, and read from there."""
