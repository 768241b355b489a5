"""The files of a data set: named, opened, indexed, unpacked, and never trusted."""
