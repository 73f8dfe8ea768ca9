"""Engines that store and search vectors: vectors are handed over to them, and they are asked."""

from mrl_experiments.engines.targets import connect

__all__ = ["connect"]
