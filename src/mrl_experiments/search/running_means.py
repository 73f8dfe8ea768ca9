"""Nearest running class means, in blocks of samples and at all dims at once."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import dtype_for
from mrl_experiments.loops import tracked
from mrl_experiments.nested_accuracy import sole_highest

Array = NDArray[Any]  # float32, or float64 where float32 does not hold the squares
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

BLOCK = 256  # samples


def predict_then_update(
    samples: Array,
    classes: Labels,
    sums: NDArray[np.float64],
    seen: Flags,
    dims: Sequence[int],
    block: int = BLOCK,
) -> dict[int, Labels]:
    """Return what each sample is taken for before it joins its class, {dim: (T,)}.

    The definition: for one sample after the other, predict the class whose sum's prefix has the largest
    cosine with the sample's (TIED where several have), then add the sample to its class. Inside a block only
    the classes of its samples move, by samples of the block: so products with the sums at its beginning and
    among its samples give every cosine. `block` changes nothing but the time.

    Args:
        samples: (T, D), in order.
        classes: (T,) rows of sums.
        sums: (C, D), the features of each class so far added up, changed here.
        seen: (C,), whether a class has any; one without is never predicted.
    """
    seen = seen.copy()
    dims = sorted(dims)
    dtype = dtype_for(dims, samples, sums)
    predicted = {dim: np.empty(len(samples), np.int64) for dim in dims}
    starts = range(0, len(samples), block)
    for start in tracked(starts, "classifying the stream", len(starts)):
        rows = slice(start, start + block)
        part, labels = np.ascontiguousarray(samples[rows], dtype), classes[rows]
        moved = _Moved(labels, seen)
        products = np.zeros((len(part), len(sums)), dtype)
        among = np.zeros((len(part), len(part)), dtype)
        squares = np.zeros(len(sums))
        for low, high in itertools.pairwise((0, *dims)):
            features, total = part[:, low:high], sums[:, low:high]
            products += features @ total.T.astype(dtype)
            among += features @ features.T
            squares += np.square(total).sum(axis=1)
            scores = np.where(seen, products * _inverse(squares), -np.inf)
            scores[:, moved.classes] = moved.scores(products, among, squares)
            predicted[high][rows] = sole_highest(scores, np.sqrt(among.diagonal()))
        np.add.at(sums, labels, part)
        seen[labels] = True
    return predicted


class _Moved:
    """The U classes of B samples, which change while these pass.

    member: (B, U), whether a sample is of a class. earlier: (B, U), whether the class has a sample by then.
    """

    def __init__(self, labels: Labels, seen: Flags) -> None:
        self.classes, self.class_index = np.unique(labels, return_inverse=True)
        self.member = (self.class_index[:, None] == np.arange(len(self.classes))).astype(np.float32)
        self.earlier = (_before(self.member) > 0) | seen[self.classes]

    def scores(self, products: Array, among: Array, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cosine, up to the sample's own norm, with each class as it is then, (B, U)."""
        inner = products[:, self.classes] + np.tril(among, -1) @ self.member
        inner_of_label = np.take_along_axis(inner, self.class_index[:, None], axis=1)[:, 0]
        growth = 2.0 * inner_of_label + among.diagonal()  # |s + x|^2 = |s|^2 + 2 s x + |x|^2
        norms = squares[self.classes] + _before(self.member * growth[:, None])
        return np.where(self.earlier, inner * _inverse(norms), -np.inf)


def _before(values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up the rows above each row, (B, U)."""
    total = np.cumsum(values, axis=0, dtype=np.float64)
    return total - values


def _inverse(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one over the square root, or 0 for a prefix of zeros: its cosine counts as 0."""
    return np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
