"""Products of feature prefixes with classifiers, and their gradients, written into given buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes. Logits are
in base 2, that is, times log2(e).
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

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

    @property
    def wanted(self) -> bool:
        """Whether any gradient is."""
        return any(buffer is not None for buffer in (self.z, *self.weights, *self.biases))

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


class Matrices:
    """Room for logits and errors, `whole` (n, B, C).

    logits: of one size. errors: of all sizes that share products; where one stands alone, its logits become
    its errors, in the same matrix.
    """

    def __init__(self, whole: Tensor) -> None:
        self.logits, *others = whole.unbind()
        self.errors = others or [self.logits]


class Operands(NamedTuple):
    """z (B, D), weights and biases of some samples and classes: of each size, or those all share."""

    z: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    dims: Sequence[int]


class Products:
    """What both ways have in common: the last errors in the room, and what they give to the gradients."""

    def __init__(self, operands: Operands, room: Matrices, to: Gradients) -> None:
        self.room, self.to, self.precision = room, to, operands.z.dtype
        self.error = room.errors[-1]

    @cached_property
    def _rounded(self) -> tuple[Tensor, Tensor]:
        """Room for `error` in the precision of the products, itself where that is its own; and transposed."""
        same = self.error.dtype == self.precision
        rounded = self.error if same else torch.empty_like(self.error, dtype=self.precision)
        return rounded, rounded.t()

    def _multiply(
        self, features: Tensor, weight: Tensor, by_z: Tensor | None, by_weight: Tensor | None, *, first: bool
    ) -> None:
        """Add what `error` gives to both gradients; first: that of the features is overwritten."""
        rounded, across = self._rounded
        if rounded is not self.error:
            rounded.copy_(self.error)
        if by_weight is not None:
            _product(across, features, by_weight, None if self.to.first_rows else by_weight)
        if by_z is not None:
            _product(rounded, weight, by_z, None if first else by_z)


class Separate(Products):
    """One classifier (C, m) a size: W_m z_{1:m} + b_m, and the gradients wanted by `to`."""

    def __init__(self, operands: Operands, room: Matrices, to: Gradients) -> None:
        super().__init__(operands, room, to)
        z, weights, biases, dims = operands
        none, features = [None] * len(dims), [prefix(z, dim) for dim in dims]
        self.forwards = list(zip(features, [weight.t() for weight in weights], biases or none, strict=True))
        by_z = none if to.z is None else [prefix(to.z, dim) for dim in dims]
        self.backwards = list(zip(features, weights, by_z, to.weights, to.biases or none, strict=True))

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products, the largest first: here every size stands alone."""
        return [range(level, level + 1) for level in reversed(range(count))]

    def logits(self, levels: range) -> Iterator[Tensor]:
        """Yield the logits (B, C) of some levels, one after the other in the same room."""
        for level in levels:
            features, across, bias = self.forwards[level]
            _product(features, across, self.room.logits, bias, LOG2E, LOG2E)
            yield self.room.logits

    def gradients(self, levels: range, factors: Sequence[Tensor]) -> None:
        """Fill `to` from the derivatives by the logits: errors in the room times `factors` (B, 1).

        The errors are overwritten.
        """
        for level, factor in zip(levels, factors, strict=True):
            features, weight, by_z, by_weight, by_bias = self.backwards[level]
            self.error.mul_(factor)
            if by_bias is not None:
                _sum(self.error, by_bias, self.to.first_rows)
            first = self.to.first_classes and level == len(self.backwards) - 1
            self._multiply(features, weight, by_z, by_weight, first=first)


class Tied(Products):
    """The first m columns of one classifier (C, D): W_{1:m} z_{1:m} + b, and the gradients wanted by `to`.

    The logits of a size are those of the next smaller one plus the product of one block of columns, so each
    block is multiplied once. Its gradients follow from the summed errors of all sizes that hold it.
    """

    def __init__(self, operands: Operands, room: Matrices, to: Gradients) -> None:
        super().__init__(operands, room, to)
        z, weights, biases, dims = operands
        self.bias = biases[0] if biases else None
        features, blocks = _blocks(z, dims), _blocks(weights[0], dims)
        self.forwards = list(zip(features, [block.t() for block in blocks], strict=True))
        buffers = _blocks(to.z, dims), _blocks(to.weights[0], dims)
        self.backwards = list(zip(features, blocks, *buffers, strict=True))

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products: all of them."""
        return [range(count)]

    def logits(self, levels: range) -> Iterator[Tensor]:
        """Yield the logits (B, C) of all levels in turn, in one room that must be left as it is."""
        smaller, scale = self.bias, LOG2E
        for features, across in self.forwards:
            _product(features, across, self.room.logits, smaller, scale, LOG2E)
            yield self.room.logits
            smaller, scale = self.room.logits, 1.0

    def gradients(self, levels: range, factors: Sequence[Tensor]) -> None:
        """Fill `to` from the derivatives by the logits: errors in the room times `factors` (B, 1).

        The errors are overwritten.
        """
        total = self.error.mul_(factors[-1])
        steps = list(zip(self.room.errors, factors, self.backwards, strict=True))
        for error, factor, step in reversed(steps):
            if error is not total:
                total.addcmul_(error, factor)
            self._multiply(*step, first=self.to.first_classes)
        if self.to.biases and (bias := self.to.biases[0]) is not None:
            _sum(total, bias, self.to.first_rows)


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
