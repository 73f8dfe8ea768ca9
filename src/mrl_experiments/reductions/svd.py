"""Singular value decomposition of the training representations."""

from dataclasses import dataclass

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.reductions.linear_map import BLOCK, LinearMap


@dataclass(frozen=True)
class SVD:
    """Rotate to the right singular vectors of Z (N, D), largest first (FF+SVD, Figure 3).

    Without centring, so that the full width keeps every cosine (the paper does not say which).
    """

    draws: int
    needs_train = True

    def fit(self, train: Embeddings, draw: int) -> LinearMap:
        """Decompose Z'Z of the training set, accumulated in float64 a block at a time."""
        moments = np.zeros((train.width, train.width))
        for start in range(0, len(train), BLOCK):
            block = train.features[start : start + BLOCK].astype(np.float64)
            moments += block.T @ block
        _, vectors = np.linalg.eigh(moments)
        matrix = np.ascontiguousarray(vectors[:, ::-1], dtype=np.float32)
        return LinearMap(matrix, f"svd of {train.identity}", keeps_heads=True)
