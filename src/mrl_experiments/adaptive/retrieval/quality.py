"""How much of what exact search finds a search has found."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.directions import SAME_SCORE

Quality = Callable[[Candidates, NDArray[np.int64]], NDArray[np.float64]]
"""Maps neighbours (Q, k), as positions, and the rows (Q,) of their queries to fractions (Q,)."""


def recall(exact: Candidates) -> Quality:
    """Return the quality that needs no labels: the share of the k nearest, `exact` (Q, k), that is found.

    What is as near as the last of them counts as one of them, since exact search could as well have found it.
    Where there are fewer than k, the share is of those that there are.
    """

    def share(found: Candidates, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        there = (exact.ids[rows] >= 0).sum(axis=1)
        last = np.where(exact.ids[rows] >= 0, exact.similarities[rows], np.inf).min(axis=1)[:, None]
        near = (found.ids >= 0) & (found.similarities >= last - SAME_SCORE * np.abs(last))
        return np.minimum(near.sum(axis=1) / np.maximum(there, 1), 1.0)

    return share
