"""Vectors of a frozen model as a data set: adaptors are trained on them."""
