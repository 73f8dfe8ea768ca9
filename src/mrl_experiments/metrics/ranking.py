"""Metrics of ranked neighbours: Q queries, K neighbours, nearest first.

`relevant` (Q, K) says which neighbours have the query's label. Each function returns (Q,).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import SAME_SCORE

Flags = NDArray[np.bool_]
Values = NDArray[np.float64]


def hit(relevant: Flags, k: int) -> Values:
    """Return 1 where any of the first k neighbours is relevant, else 0: top-k retrieval accuracy."""
    return np.asarray(relevant[:, :k].any(axis=1), np.float64)


def precision(relevant: Flags, k: int) -> Values:
    """P@k: relevant neighbours among the first k, divided by k."""
    return np.asarray(relevant[:, :k].mean(axis=1))


def recall(relevant: Flags, k: int, total: NDArray[np.int64]) -> Values:
    """R@k: relevant neighbours among the first k, divided by `total` (Q,), those in the whole database."""
    return np.asarray(relevant[:, :k].sum(axis=1) / total)


def average_precision(relevant: Flags, k: int) -> Values:
    """AP@k: the sum of P@i over the ranks i <= k of relevant neighbours, divided by k.

    Its mean over queries is the mAP@k of Tables 8 to 14; the denominator is k even where fewer are relevant.
    """
    found = relevant[:, :k]
    precisions = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    return np.asarray((precisions * found).sum(axis=1) / k)


def relevant_last(cosines: NDArray[Any], relevant: Flags) -> NDArray[np.int64]:
    """Return the order of neighbours, nearest first, with the relevant ones last among equally near ones.

    So a tie counts against the query's label, whatever the order of the database or of a search.

    Args:
        cosines: (Q, K).
        relevant: (Q, K).

    Returns:
        (Q, K) int64 positions in the rows of `cosines`.

    Example:
        >>> relevant_last(np.array([[0.5, 0.9, 0.9]]), np.array([[False, True, False]])).tolist()
        [[2, 1, 0]]
    """
    return np.argsort(SAME_SCORE * relevant - cosines, axis=1, kind="stable")
