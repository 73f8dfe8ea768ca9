"""Batches: their order, their random draws, the FFCV files and the loaders that read them."""
