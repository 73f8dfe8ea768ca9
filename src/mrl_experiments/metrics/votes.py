"""Votes of neighbours on a query's class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import SAME_SCORE

Labels = NDArray[np.int64]

BLOCK = 2048  # queries whose (K, K) comparisons are in memory at a time


def class_rank(neighbour_labels: Labels, similarities: NDArray[Any], labels: Labels) -> Labels:
    """Return how many other classes stand at least as high as the query's among its neighbours, (Q,).

    A class with more votes stands higher; of equal votes, the one whose nearest voter is nearer. Two that are
    equal in both are tied, which counts against the label (`nested_accuracy`). K means no vote.

    Args:
        neighbour_labels: (Q, K), nearest first, as `search.database.neighbours` orders them.
        similarities: (Q, K) cosines.
        labels: (Q,) of the queries.
    """
    blocks = (slice(start, start + BLOCK) for start in range(0, len(labels), BLOCK))
    parts = [_class_rank(neighbour_labels[b], similarities[b], labels[b]) for b in blocks]
    return np.concatenate(parts)


def _class_rank(voters: Labels, similarities: NDArray[Any], labels: Labels) -> Labels:
    k = voters.shape[1]
    same = voters[:, :, None] == voters[:, None, :]
    nearest = same.argmax(axis=2) == np.arange(k)  # one voter for each class
    votes = same.sum(axis=2)
    of_label = voters == labels[:, None]
    first = of_label.argmax(axis=1)[:, None]
    label_votes, label_similarity = (
        np.take_along_axis(part, first, axis=1) for part in (votes, similarities)
    )
    as_near = similarities >= label_similarity - SAME_SCORE
    ahead = (votes > label_votes) | ((votes == label_votes) & as_near)
    return np.where(of_label.any(axis=1), (nearest & ~of_label & ahead).sum(axis=1), k).astype(np.int64)
