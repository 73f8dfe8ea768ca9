"""Products of feature prefixes with classifiers, and their gradients, in preallocated buffers.

Two ways to share weights between sizes: `Separate` (MRL) and `Tied` (MRL-E). L = number of sizes.
z (B, D) and the weights come in the precision of the products, all other tensors in that of the sums.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrl_experiments.nesting import prefix

NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


@dataclass(frozen=True)
class Gradients:
    """Buffers to fill: z (B, D) of a chunk of samples, weights and biases; None or empty where not wanted.

    `fresh`: weights and biases hold nothing yet; otherwise the chunk's gradients are added to them.
    """

    z: Tensor | None
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    fresh: bool


class Separate:
    """One classifier (C, m) a size: W_m z_{1:m} + b_m."""

    @staticmethod
    def logits(
        z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dims: Sequence[int], out: Tensor
    ) -> None:
        """Fill out (L, B, C)."""
        for level, dim in enumerate(dims):
            start = biases[level] if biases else None
            _product(prefix(z, dim), weights[level].t(), out[level], start)

    @staticmethod
    def gradients(
        errors: Tensor,
        scale: Tensor,
        z: Tensor,
        weights: Sequence[Tensor],
        dims: Sequence[int],
        to: Gradients,
    ) -> None:
        """Fill `to`, given errors (L, B, C) at the logits and the factor `scale` (L, B) of each row."""
        scaled = torch.empty_like(errors[0])
        if to.z is not None:
            to.z[:, dims[-1] :] = 0
        for level in reversed(range(len(dims))):  # from the largest, which writes all of to.z
            dim, largest = dims[level], level == len(dims) - 1
            torch.mul(errors[level], scale[level][:, None], out=scaled)
            error = scaled.to(z.dtype)
            if to.z is not None:
                part = prefix(to.z, dim)
                _product(error, weights[level], part, None if largest else part)
            if to.weights:
                _product(
                    error.t(), prefix(z, dim), to.weights[level], None if to.fresh else to.weights[level]
                )
            if to.biases:
                _column_sums(scaled, to.biases[level], to.fresh)


class Tied:
    """The first m columns of one classifier (C, D): W_{1:m} z_{1:m} + b.

    The logits of a size are those of the next smaller one plus one block's product, so every block is
    multiplied once; its gradient belongs to the sum of the errors of all sizes that hold it.
    """

    @staticmethod
    def logits(
        z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dims: Sequence[int], out: Tensor
    ) -> None:
        """Fill out (L, B, C)."""
        start = biases[0] if biases else None
        for level, (low, high) in enumerate(itertools.pairwise((0, *dims))):
            _product(z[:, low:high], weights[0][:, low:high].t(), out[level], start)
            start = out[level]

    @staticmethod
    def gradients(
        errors: Tensor,
        scale: Tensor,
        z: Tensor,
        weights: Sequence[Tensor],
        dims: Sequence[int],
        to: Gradients,
    ) -> None:
        """Fill `to`, given errors (L, B, C) at the logits and the factor `scale` (L, B) of each row."""
        for unused in filter(None.__ne__, (to.z, *(to.weights if to.fresh else ()))):
            unused[:, dims[-1] :] = 0
        total = torch.zeros_like(errors[0])
        blocks = list(itertools.pairwise((0, *dims)))
        for level in reversed(range(len(dims))):
            total.addcmul_(errors[level], scale[level][:, None])
            error = total.to(z.dtype)
            block = slice(*blocks[level])
            if to.z is not None:
                _product(error, weights[0][:, block], to.z[:, block], None)
            if to.weights:
                part = to.weights[0][:, block]
                _product(error.t(), z[:, block], part, None if to.fresh else part)
        if to.biases:
            _column_sums(total, to.biases[0], to.fresh)


def _product(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None) -> None:
    """Set out = start + a @ b; `start` may be `out` itself, or None for zero."""
    if a.dtype == out.dtype and out.shape[1] >= NARROW:
        if start is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(start, a, b, out=out)
        return
    product = a @ b if out.shape[1] >= NARROW else (b.t() @ a.t()).t()
    if start is None:
        out.copy_(product)
    else:
        torch.add(start, product, out=out)


def _column_sums(error: Tensor, out: Tensor, fresh: bool) -> None:
    if fresh:
        torch.sum(error, 0, out=out)
    else:
        out.add_(error.sum(0))
