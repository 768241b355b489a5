"""Data sets in buckets and on web servers, fetched by the block and checked."""
