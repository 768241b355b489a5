"""LIBERO demonstrations in HDF5."""
