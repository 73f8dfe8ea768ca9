"""A run as an object to use: what a user has goes in, vectors and classes come out."""

from mrl_experiments.loaded.model import LoadedModel, load

__all__ = ["LoadedModel", "load"]
