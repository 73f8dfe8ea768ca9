"""Nearest class mean at many nested dims: a class is the sum of its features, told apart by cosine.

The mean of a class points where the sum does, so counts do not matter. Features enter as they are and only
the mean's prefix is normalized (as in FLUID's code): so the products of a prefix are those of the next
shorter one plus those of the features between them, and all dims cost as much as the largest.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments.directions import dtype_for, inverse_norms, prefix_norms
from mrl_experiments.nested_accuracy import sole_highest

QUERY_BLOCK = 256  # a block of scores then stays in a core's second-level cache

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def class_sums(features: Features, classes: Labels, count: int, block: int = 8192) -> NDArray[np.float64]:
    """Add up the features (N, D) of each of `count` classes, classes (N,) -> (count, D)."""
    sums = np.zeros((count, features.shape[1]))
    for start in range(0, len(features), block):
        rows = slice(start, start + block)
        present, group = np.unique(classes[rows], return_inverse=True)
        chosen = np.zeros((len(present), len(group)), dtype_for([features.shape[1]], features[rows]))
        chosen[group, np.arange(len(group))] = 1
        sums[present] += chosen @ features[rows]
    return sums


def nearest_means(queries: Features, sums: NDArray[Any], dims: Sequence[int]) -> dict[int, Labels]:
    """Return the class of the nearest mean for queries (Q, D) at each dim, {dim: (Q,)}.

    Args:
        sums: (C, D). TIED where several means are equally near; a prefix of zeros has similarity 0.
    """
    dims = sorted(dims)
    dtype = dtype_for(dims, queries, sums)
    means = torch.from_numpy(sums.astype(dtype, copy=False))
    inverse = [torch.from_numpy(norms) for norms in inverse_norms(means.numpy(), dims).values()]
    segments = list(itertools.pairwise((0, *dims)))
    columns = [means[:, low:high].T.contiguous() for low, high in segments]
    predicted = {dim: np.empty(len(queries), np.int64) for dim in dims}
    query_norms = prefix_norms(queries, dims)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = torch.from_numpy(np.array(queries[start : start + QUERY_BLOCK], dtype))
        products = means.new_zeros(len(block), len(means))
        scores = torch.empty_like(products)
        for dim, (low, high), part, norms in zip(dims, segments, columns, inverse, strict=True):
            products.addmm_(block[:, low:high], part)
            torch.mul(products, norms, out=scores)
            rows = slice(start, start + len(block))
            predicted[dim][rows] = sole_highest(scores.numpy(), query_norms[dim][rows])
    return predicted
