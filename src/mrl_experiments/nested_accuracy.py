"""Top-k accuracy and its one rule for ties, in training and in every evaluation.

A tie counts against the label: a label is among the k highest where fewer than k *other* classes score at
least as high. So constant scores find nothing, whatever the order of the classes, and neither do NaN ones. Of
equally near neighbours, those of the query's label come last (`metrics.ranking.relevant_last`); a class has
the most votes where no other has as many (`metrics.votes`).

Scores, which are logits or cosines, are equal where they differ by no more than `directions.SAME_SCORE`:
those of equal vectors differ in their last digits, by where a vector stands in a product of matrices, and
classes whose logits differ by so little have probabilities that agree to a millionth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.directions import SAME_SCORE

TIED = -1  # in place of a class where several score highest


def label_rank(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many other classes score at least as high as the label, (...); C where that is NaN.

    Args:
        scores: (..., C).
        labels: (...) int64.

    Example:
        >>> label_rank(torch.tensor([[3.0, 1.0, 3.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([1, 0])
    """
    rank = (scores >= scores.gather(-1, labels[..., None]) - SAME_SCORE).sum(-1) - 1
    return torch.where(rank < 0, scores.shape[-1], rank)


def nested_hits(logits: Tensor | Mapping[int, Tensor], labels: Tensor, k: Sequence[int] = (1, 5)) -> Tensor:
    """Return (L, K): how many labels are among the k highest logits, for each of L dims and K values of k.

    Args:
        logits: (B, L, C), or {dim: (B, C)}.
        labels: (B,) int64.
    """
    if isinstance(logits, Mapping):
        return torch.cat([nested_hits(of_dim[:, None], labels, k) for of_dim in logits.values()])
    rank = label_rank(logits, labels[:, None].expand(-1, logits.shape[1]))
    return torch.stack([(rank < limit).sum(0) for limit in k], dim=1)


def sole_highest(scores: NDArray[Any], unit: NDArray[Any] | float = 1.0) -> NDArray[np.int64]:
    """Return the class with the highest of scores (B, C), or TIED where several have it, (B,).

    Args:
        scores: (B, C).
        unit: By what scores are larger than logits or cosines, for all or for each row (B,).

    Example:
        >>> sole_highest(np.array([[1.0, 2.0], [2.0, 2.0]])).tolist()
        [1, -1]
    """
    first = scores.argmax(axis=1)
    limit = np.take_along_axis(scores, first[:, None], axis=1) - SAME_SCORE * np.reshape(unit, (-1, 1))
    return np.where(np.count_nonzero(scores >= limit, axis=1) != 1, TIED, first)  # NaN: none is
