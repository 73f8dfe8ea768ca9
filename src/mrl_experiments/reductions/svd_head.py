"""Singular value decomposition of the classifier."""

from dataclasses import dataclass

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.reductions.linear_map import LinearMap


@dataclass(frozen=True)
class SVDHead:
    """Rotate to the right singular vectors of the classifier W (C, D), largest first (SVD, Table 1).

    The first m features then give W's best approximation of rank m; the bias stays whole. From rank C on, the
    remaining directions complete the basis.
    """

    draws: int
    needs_train = True

    def fit(self, train: Embeddings, draw: int) -> LinearMap:
        """Decompose the classifier of the largest dim.

        Raises:
            UserError: If the run has none at width D.
        """
        heads = train.heads
        if heads is None or not heads.serves(train.width):
            raise UserError(
                f"there is no classifier of all {train.width} features to decompose",
                expected="a run trained to classify at its full width",
                remedy="choose another run, or reduction=svd",
            )
        weight, _ = heads.at(train.width)
        _, _, directions = np.linalg.svd(weight.astype(np.float64), full_matrices=True)
        matrix = np.ascontiguousarray(directions.T, dtype=np.float32)
        return LinearMap(matrix, f"svd_head of {train.identity}", keeps_heads=True)
