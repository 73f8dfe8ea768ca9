"""Products of feature prefixes with classifiers, and their gradients, written into given buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes. Logits are
in base 2, that is, times log2(e).
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from mrl_experiments.nesting import prefix

LOG2E = 1 / math.log(2)
NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


@dataclass(frozen=True)
class Gradients:
    """Buffers for the gradients of z (B, D), weights and biases; None where not wanted.

    Those of weights and biases are overwritten by the first samples, then added to; that of z is overwritten
    by the largest size of the first classes, then added to. Nothing is written beyond the largest size.
    first_rows, first_classes: whether these are the first samples, or classes.
    """

    z: Tensor | None
    weights: Sequence[Tensor | None]
    biases: Sequence[Tensor | None]
    dims: tuple[int, ...]
    first_rows: bool = True
    first_classes: bool = True

    def of_rows(self, rows: slice) -> "Gradients":
        """Return the buffers for some of the samples."""
        z = None if self.z is None else self.z[rows]
        return replace(self, z=z, first_rows=rows.start == 0)

    def of_classes(self, chunk: slice, classes: int) -> "Gradients":
        """Return the buffers for a chunk of the classes."""
        if chunk.stop - chunk.start == classes:
            return self
        weights, biases = (
            [buffer if buffer is None else buffer[chunk] for buffer in buffers]
            for buffers in (self.weights, self.biases)
        )
        return replace(self, weights=weights, biases=biases, first_classes=chunk.start == 0)


class Separate:
    """One classifier (C, m) a size: W_m z_{1:m} + b_m."""

    def __init__(
        self, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dims: Sequence[int]
    ) -> None:
        self.weights, self.biases = weights, biases
        self.parts = [prefix(z, dim) for dim in dims]

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products, the largest first: here every size stands alone."""
        return [range(level, level + 1) for level in reversed(range(count))]

    @staticmethod
    def matrices(levels: int) -> int:
        """Return how many (B, C) hold logits and errors of as many levels: errors replace logits."""
        return levels

    def logits(self, levels: range, room: Tensor) -> Iterator[Tensor]:
        """Yield the logits (B, C) of some levels, one after the other in the same `room`."""
        for level in levels:
            start = self.biases[level] if self.biases else None
            _product(self.parts[level], self.weights[level].t(), room, start, LOG2E, LOG2E)
            yield room

    def gradients(
        self, levels: range, errors: Sequence[Tensor], factors: Sequence[Tensor], to: Gradients
    ) -> None:
        """Fill `to` from the derivatives by the logits: `errors` (B, C) times `factors` (B, 1) of each level.

        The errors are overwritten.
        """
        for level, error, factor in zip(levels, errors, factors, strict=True):
            error.mul_(factor)
            if to.biases and (bias := to.biases[level]) is not None:
                _sum(error, bias, to.first_rows)
            features = self.parts[level]
            rounded, dim = error.to(features.dtype), to.dims[level]
            if to.z is not None:
                part = prefix(to.z, dim)
                first = to.first_classes and dim == to.dims[-1]
                _product(rounded, self.weights[level], part, None if first else part)
            if (weight := to.weights[level]) is not None:
                _product(rounded.t(), features, weight, None if to.first_rows else weight)


class Tied:
    """The first m columns of one classifier (C, D): W_{1:m} z_{1:m} + b.

    The logits of a size are those of the next smaller one plus the product of one block of columns, so each
    block is multiplied once. Its gradients follow from the summed errors of all sizes that hold it.
    """

    def __init__(
        self, z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dims: Sequence[int]
    ) -> None:
        self.biases, self.precision = biases, z.dtype
        self.blocks = list(zip(_blocks(z, dims), _blocks(weights[0], dims), strict=True))

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products: all of them."""
        return [range(count)]

    @staticmethod
    def matrices(levels: int) -> int:
        """Return how many (B, C) hold logits and errors of as many levels: errors wait, logits go on."""
        return levels + 1

    def logits(self, levels: range, room: Tensor) -> Iterator[Tensor]:
        """Yield the logits (B, C) of all levels in turn, in one `room` that must be left as it is."""
        smaller, scale = self.biases[0] if self.biases else None, LOG2E
        for features, weight in self.blocks:
            _product(features, weight.t(), room, smaller, scale, LOG2E)
            yield room
            smaller, scale = room, 1.0

    def gradients(
        self, levels: range, errors: Sequence[Tensor], factors: Sequence[Tensor], to: Gradients
    ) -> None:
        """Fill `to` from the derivatives by the logits: `errors` (B, C) times `factors` (B, 1) of each level.

        The errors are overwritten.
        """
        total = errors[-1].mul_(factors[-1])
        rounded = total if total.dtype == self.precision else torch.empty_like(total, dtype=self.precision)
        across = rounded.t()
        buffers = zip(_blocks(to.z, to.dims), _blocks(to.weights[0], to.dims), strict=True)
        steps = list(zip(errors, factors, self.blocks, buffers, strict=True))
        for error, factor, (features, weight), (by_z, by_weight) in reversed(steps):
            if error is not errors[-1]:
                total.addcmul_(error, factor)
            if rounded is not total:
                rounded.copy_(total)
            if by_weight is not None:
                _product(across, features, by_weight, None if to.first_rows else by_weight)
            if by_z is not None:
                _product(rounded, weight, by_z, None if to.first_classes else by_z)
        if to.biases and (bias := to.biases[0]) is not None:
            _sum(total, bias, to.first_rows)


@overload
def _blocks(matrix: Tensor, dims: Sequence[int]) -> Sequence[Tensor]: ...
@overload
def _blocks(matrix: Tensor | None, dims: Sequence[int]) -> Sequence[Tensor | None]: ...
def _blocks(matrix: Tensor | None, dims: Sequence[int]) -> Sequence[Tensor | None]:
    """Return each size's columns beyond the next smaller one's, or as many None."""
    if matrix is None:
        return [None] * len(dims)
    widths = [high - low for low, high in itertools.pairwise((0, *dims))]
    return prefix(matrix, dims[-1]).split(widths, dim=1)


def _product(
    a: Tensor, b: Tensor, out: Tensor, start: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> None:
    """Set out = beta start + alpha a @ b; `start` may be `out` itself, and None is zero."""
    narrow = out.shape[1] < NARROW
    if a.dtype == out.dtype and not narrow:
        if start is None:
            torch.addmm(out, a, b, beta=0, alpha=alpha, out=out)
        else:
            torch.addmm(start, a, b, beta=beta, alpha=alpha, out=out)
        return
    product = (b.t() @ a.t()).t() if narrow else a @ b
    if start is None:
        out.copy_(product)
        if alpha != 1:
            out.mul_(alpha)
    else:
        torch.add(start if beta == 1 else start * beta, product, alpha=alpha, out=out)


def _sum(errors: Tensor, out: Tensor, first: bool) -> None:
    """Set out (C,) to the sum of errors (B, C) over the samples, or add it."""
    if first:
        torch.sum(errors, 0, out=out)
    else:
        out.add_(errors.sum(0))
