"""Bridge V2: as RLDS, as raw folders of JPEG and pickles, and as NumPy files."""
