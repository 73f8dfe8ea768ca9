"""Johnson-Lindenstrauss: Gaussian random projections."""

from dataclasses import dataclass

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.reductions.linear_map import LinearMap


@dataclass(frozen=True)
class JL:
    """Project to m independent Gaussian directions; a larger m contains a smaller one's (FF+JL, Figure 3).

    With variance 1/D, the first m values keep squared distances up to the factor m/D in expectation, and
    cosines up to O(1/sqrt(m)). The paper's own figures are at chance (Table 2), so they were drawn per vector
    or otherwise broken.
    """

    draws: int
    needs_train = True

    def fit(self, train: Embeddings, draw: int) -> LinearMap:
        """Draw a (D, D) matrix; of `train` only the width counts."""
        width = train.width
        matrix = np.random.default_rng(draw).standard_normal((width, width), dtype=np.float32)
        return LinearMap(matrix / np.float32(np.sqrt(width)), f"jl {draw}", keeps_heads=False)
