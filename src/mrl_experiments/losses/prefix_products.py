"""Products of feature prefixes with classifiers, and their gradients, written into given buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes.
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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


class Scale(NamedTuple):
    """What the derivatives by the logits are multiplied by to become those of the loss.

    levels: a number for each size, L of them. rows: (L, B) for each sample besides, or None.
    """

    levels: Sequence[float]
    rows: Tensor | None

    def of_rows(self, rows: slice) -> "Scale":
        """Return the factors of some of the samples."""
        return self if self.rows is None else Scale(self.levels, self.rows[:, rows])


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
        scale: Scale,
        z: Tensor,
        weights: Sequence[Tensor],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives `errors` (l, B, C) by some levels' logits, times `scale`.

        The errors are overwritten.
        """
        for level, error in zip(levels, errors, strict=True):
            factor = scale.levels[level]
            if scale.rows is not None:
                error.mul_(scale.rows[level][:, None])
            if to.biases and (bias := to.biases[level]) is not None:
                _sum(error, bias, factor, to.first_rows)
            rounded, dim = error.to(z.dtype), to.dims[level]
            if to.z is not None:
                part = prefix(to.z, dim)
                first = to.first_classes and dim == to.dims[-1]
                _product(rounded, weights[level], part, None if first else part, factor)
            if (weight := to.weights[level]) is not None:
                _product(rounded.t(), prefix(z, dim), weight, None if to.first_rows else weight, factor)


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
        for block in _blocks(dims):
            _product(z[:, block], weights[0][:, block].t(), room, smaller)
            yield room
            smaller = room

    @staticmethod
    def gradients(
        levels: range,
        errors: Tensor,
        scale: Scale,
        z: Tensor,
        weights: Sequence[Tensor],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives `errors` (L, B, C) by all levels' logits, times `scale`.

        The errors are overwritten.
        """
        total, factor = errors[-1], scale.levels[-1]
        if scale.rows is not None:
            total.mul_(scale.rows[-1][:, None])
        for level, block in reversed(list(zip(levels, _blocks(to.dims), strict=True))):
            if level < levels[-1] and scale.rows is not None:
                total.addcmul_(errors[level], scale.rows[level][:, None])
            elif level < levels[-1]:
                total.add_(errors[level], alpha=scale.levels[level] / factor)
            summed = total.to(z.dtype)
            if (weight := to.weights[0]) is not None:
                part = weight[:, block]
                _product(summed.t(), z[:, block], part, None if to.first_rows else part, factor)
            if to.z is not None:
                part = to.z[:, block]
                _product(summed, weights[0][:, block], part, None if to.first_classes else part, factor)
        if to.biases and (bias := to.biases[0]) is not None:
            _sum(total, bias, factor, to.first_rows)


def _blocks(dims: Sequence[int]) -> list[slice]:
    return [slice(low, high) for low, high in itertools.pairwise((0, *dims))]


def _product(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None = None, factor: float = 1) -> None:
    """Set out = start + factor * a @ b; `start` may be `out` itself, and None is zero."""
    narrow = out.shape[1] < NARROW
    if a.dtype == out.dtype and not narrow:
        torch.addmm(out if start is None else start, a, b, beta=start is not None, alpha=factor, out=out)
        return
    product = (b.t() @ a.t()).t() if narrow else a @ b
    if start is None:
        torch.mul(product, factor, out=out)
    else:
        torch.add(start, product, alpha=factor, out=out)


def _sum(errors: Tensor, out: Tensor, factor: float, first: bool) -> None:
    """Set out (C,) to the sum of errors (B, C) over the samples times `factor`, or add that to it."""
    if first:
        torch.sum(errors, 0, out=out).mul_(factor)
    else:
        out.add_(errors.sum(0), alpha=factor)
