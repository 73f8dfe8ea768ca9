"""Random features of a run, in a random order."""

from dataclasses import dataclass

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.reductions.linear_map import LinearMap


@dataclass(frozen=True)
class Random:
    """m features chosen at random without repetition (Rand. LP of Table 1); a larger m contains a smaller."""

    draws: int
    needs_train = True

    def fit(self, train: Embeddings, draw: int) -> LinearMap:
        """Draw an order of the D features; of `train` only the width counts."""
        order = np.random.default_rng(draw).permutation(train.width)
        matrix = np.eye(train.width, dtype=np.float32)[:, order]
        return LinearMap(matrix, f"random {draw}", keeps_heads=True)
