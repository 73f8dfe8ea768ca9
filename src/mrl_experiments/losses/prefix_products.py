"""Products of feature prefixes with classifiers, and their gradients, written into given buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes.
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from mrl_experiments.nesting import prefix

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

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products, the largest first: here every size stands alone."""
        return [range(level, level + 1) for level in reversed(range(count))]

    @staticmethod
    def logits(
        levels: range,
        z: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dims: Sequence[int],
        room: Tensor,
    ) -> Iterator[Tensor]:
        """Yield the logits (B, C) of some levels, one after the other in the same `room`."""
        for level in levels:
            _product(prefix(z, dims[level]), weights[level].t(), room, biases[level] if biases else None)
            yield room

    @staticmethod
    def gradients(
        levels: range,
        errors: Tensor,
        factors: Sequence[Tensor],
        z: Tensor,
        weights: Sequence[Tensor],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives by the logits, `errors` (l, B, C) times `factors`, (B, 1) each.

        The errors are overwritten.
        """
        for level, error, factor in zip(levels, errors.unbind(), factors, strict=True):
            error.mul_(factor)
            if to.biases and (bias := to.biases[level]) is not None:
                _sum(error, bias, to.first_rows)
            rounded, dim = error.to(z.dtype), to.dims[level]
            if to.z is not None:
                part = prefix(to.z, dim)
                first = to.first_classes and dim == to.dims[-1]
                _product(rounded, weights[level], part, None if first else part)
            if (weight := to.weights[level]) is not None:
                _product(rounded.t(), prefix(z, dim), weight, None if to.first_rows else weight)


class Tied:
    """The first m columns of one classifier (C, D): W_{1:m} z_{1:m} + b.

    The logits of a size are those of the next smaller one plus the product of one block of columns, so each
    block is multiplied once. Its gradients follow from the summed errors of all sizes that hold it.
    """

    @staticmethod
    def groups(count: int) -> list[range]:
        """Return the sizes that share products: all of them."""
        return [range(count)]

    @staticmethod
    def logits(
        levels: range,
        z: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dims: Sequence[int],
        room: Tensor,
    ) -> Iterator[Tensor]:
        """Yield the logits (B, C) of all levels in turn, in one `room` that must be left as it is."""
        smaller = biases[0] if biases else None
        for features, weight in zip(_blocks(z, dims), _blocks(weights[0], dims), strict=True):
            _product(features, weight.t(), room, smaller)
            yield room
            smaller = room

    @staticmethod
    def gradients(
        levels: range,
        errors: Tensor,
        factors: Sequence[Tensor],
        z: Tensor,
        weights: Sequence[Tensor],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives by the logits, `errors` (L, B, C) times `factors`, (B, 1) each.

        The errors are overwritten.
        """
        total = errors[-1].mul_(factors[-1])
        blocks = zip(
            errors.unbind(),
            factors,
            *(_blocks(tensor, to.dims) for tensor in (z, weights[0], to.z, to.weights[0])),
            strict=True,
        )
        for level, (error, factor, features, weight, by_z, by_weight) in reversed(list(enumerate(blocks))):
            if level < levels[-1]:
                total.addcmul_(error, factor)
            summed = total.to(z.dtype)
            if by_weight is not None:
                _product(summed.t(), features, by_weight, None if to.first_rows else by_weight)
            if by_z is not None:
                _product(summed, weight, by_z, None if to.first_classes else by_z)
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


def _product(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None = None) -> None:
    """Set out = start + a @ b; `start` may be `out` itself, and None is zero."""
    narrow = out.shape[1] < NARROW
    if a.dtype == out.dtype and not narrow:
        if start is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(start, a, b, out=out)
        return
    product = (b.t() @ a.t()).t() if narrow else a @ b
    if start is None:
        out.copy_(product)
    else:
        torch.add(start, product, out=out)


def _sum(errors: Tensor, out: Tensor, first: bool) -> None:
    """Set out (C,) to the sum of errors (B, C) over the samples, or add it."""
    if first:
        torch.sum(errors, 0, out=out)
    else:
        out.add_(errors.sum(0))
