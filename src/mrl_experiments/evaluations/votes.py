"""Votes of neighbours on a query's class."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

BLOCK = 2048  # queries whose (K, K) comparisons are in memory at a time


def class_rank(neighbour_labels: Labels, labels: Labels) -> Labels:
    """Return the place of each query's class among its neighbours' classes, (Q, K) and (Q,) -> (Q,).

    0 has most votes, K means no vote. Of classes with equal votes, the one with the nearer neighbour leads.
    """
    starts = range(0, len(labels), BLOCK)
    return np.concatenate(
        [_class_rank(neighbour_labels[s : s + BLOCK], labels[s : s + BLOCK]) for s in starts]
    )


def _class_rank(neighbour_labels: Labels, labels: Labels) -> Labels:
    k = neighbour_labels.shape[1]
    same = neighbour_labels[:, :, None] == neighbour_labels[:, None, :]
    first = same.argmax(axis=2)  # where a neighbour's class appears first
    standing = same.sum(axis=2) * k - first  # differs between the classes of a query
    own = neighbour_labels == labels[:, None]
    own_standing = np.where(own, standing, 0).max(axis=1)
    ahead = (first == np.arange(k)) & (standing > own_standing[:, None])
    return np.where(own.any(axis=1), ahead.sum(axis=1), k).astype(np.int64)
