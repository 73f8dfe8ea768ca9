"""Data sets, the files they are cached in, and the loaders that read them."""
