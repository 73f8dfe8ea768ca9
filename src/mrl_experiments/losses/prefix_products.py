"""Products of feature prefixes with classifiers, and their gradients, written into given buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes.
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrl_experiments.nesting import prefix

NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


@dataclass(frozen=True)
class Gradients:
    """Buffers for the gradients of z (B, D), weights and biases; None where not wanted.

    Those of weights and biases are overwritten; that of z is too if `fresh`, otherwise added to.
    """

    z: Tensor | None
    weights: Sequence[Tensor | None]
    biases: Sequence[Tensor | None]
    fresh: bool


class Separate:
    """One classifier (C, m) a size: W_m z_{1:m} + b_m."""

    @staticmethod
    def logits(
        z: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dims: Sequence[int],
        out: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        """Fill L tensors (B, C) and yield each as soon as it may be overwritten."""
        for index, (dim, weight, level) in enumerate(zip(dims, weights, out, strict=True)):
            _product(prefix(z, dim), weight.t(), level, biases[index] if biases else None)
            yield level

    @staticmethod
    def gradients(
        errors: Sequence[Tensor],
        scale: Tensor,
        z: Tensor,
        weights: Sequence[Tensor],
        dims: Sequence[int],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives `errors` (L of (B, C)) by the logits, rows times `scale` (L, B)."""
        scaled = torch.empty_like(errors[0])
        _clear_unread(to, dims[-1])
        overwrite = to.fresh
        for level in reversed(range(len(dims))):  # the largest first: it writes all of to.z
            torch.mul(errors[level], scale[level][:, None], out=scaled)
            error = scaled.to(z.dtype)
            if to.z is not None:
                part = prefix(to.z, dims[level])
                _product(error, weights[level], part, None if overwrite else part)
                overwrite = False
            if (weight := to.weights[level]) is not None:
                _product(error.t(), prefix(z, dims[level]), weight)
            if to.biases and (bias := to.biases[level]) is not None:
                torch.sum(scaled, 0, out=bias)


class Tied:
    """The first m columns of one classifier (C, D): W_{1:m} z_{1:m} + b.

    The logits of a size are those of the next smaller one plus the product of one block of columns, so each
    block is multiplied once. Its gradients follow from the summed errors of all sizes that hold it.
    """

    @staticmethod
    def logits(
        z: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dims: Sequence[int],
        out: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        """Fill L tensors (B, C) and yield each as soon as it may be overwritten."""
        smaller = biases[0] if biases else None
        for index, (block, level) in enumerate(zip(_blocks(dims), out, strict=True)):
            _product(z[:, block], weights[0][:, block].t(), level, smaller)
            if index:
                yield out[index - 1]
            smaller = level
        yield out[-1]

    @staticmethod
    def gradients(
        errors: Sequence[Tensor],
        scale: Tensor,
        z: Tensor,
        weights: Sequence[Tensor],
        dims: Sequence[int],
        to: Gradients,
    ) -> None:
        """Fill `to` from the derivatives `errors` (L of (B, C)) by the logits, rows times `scale` (L, B)."""
        total = torch.zeros_like(errors[0])
        _clear_unread(to, dims[-1])
        for block, error, factor in reversed(list(zip(_blocks(dims), errors, scale, strict=True))):
            total.addcmul_(error, factor[:, None])
            summed = total.to(z.dtype)
            if to.z is not None:
                part = to.z[:, block]
                _product(summed, weights[0][:, block], part, None if to.fresh else part)
            if to.weights[0] is not None:
                _product(summed.t(), z[:, block], to.weights[0][:, block])
        if to.biases and to.biases[0] is not None:
            torch.sum(total, 0, out=to.biases[0])


def _clear_unread(to: Gradients, dim: int) -> None:
    """Zero the gradients of features and columns beyond the largest size."""
    for buffer in (to.z, *to.weights):
        if buffer is not None:
            buffer[:, dim:] = 0


def _blocks(dims: Sequence[int]) -> list[slice]:
    return [slice(low, high) for low, high in itertools.pairwise((0, *dims))]


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
