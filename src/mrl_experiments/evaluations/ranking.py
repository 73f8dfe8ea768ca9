"""Quality of ranked neighbours; a query's neighbour is right when it has the query's label."""

import numpy as np
from numpy.typing import NDArray


def hits(
    neighbours: NDArray[np.int64], labels: NDArray[np.int64], query_labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (Q, K): which neighbours are right. neighbours: (Q, K) positions in labels (N,), -1 for none."""
    return (neighbours >= 0) & (labels[neighbours] == query_labels[:, None])


def average_precision(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return AP@K of each query, (Q, K) -> (Q,): the sum of P@i over its hits i, divided by K.

    Source: mAP@k of Table 8 of the paper; the denominator is K, not the number of right items there are.
    """
    ranks = np.arange(1, right.shape[1] + 1)
    return np.asarray((np.cumsum(right, axis=1) / ranks * right).mean(axis=1))


def ranking_quality(right: NDArray[np.bool_]) -> dict[str, float]:
    """Return mAP@K, P@K (hits / K) and top1 (first is right), each a mean over the queries (Q, K)."""
    k = right.shape[1]
    return {
        f"mAP@{k}": float(average_precision(right).mean()),
        f"P@{k}": float(right.mean()),
        "top1": float(right[:, 0].mean()),
    }
