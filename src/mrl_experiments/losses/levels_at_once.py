"""The nested loss in few kernels: every step does all sizes together, and all logits exist at once.

On a GPU the products of a few hundred images are over before the next kernel has been started, so what
a loss costs is their number. L sizes, B samples, C classes.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mrl_experiments.losses.prefix_products import Gradients
from mrl_experiments.losses.softmax_rows import Outcome
from mrl_experiments.nesting import prefix


def outcome_and_gradients(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dims: Sequence[int],
    label: Tensor,
    smoothing: float,
    factors: Tensor,
    to: Gradients,
    *,
    tied: bool,
) -> Outcome:
    """Tell what became of the samples at all sizes, and fill `to` with the gradients.

    z: (B, D) and the weights in the precision of the products. factors: (L, B, 1) what the derivatives of
    each sample are multiplied by, in the precision of the sums.
    """
    log_p = _logits(z, weights, biases, dims, factors.dtype, tied=tied).log_softmax(dim=2)
    place = label.expand(len(dims), -1)[..., None]
    log_own = log_p.gather(2, place)
    mean_log = log_p.mean(dim=2) if smoothing else log_own[..., 0]
    errors, own = log_p.exp(), log_own.exp()
    # The label's probability less 1 is never above another's probability: the highest value is its rival's.
    rival = errors.scatter_(2, place, own - 1).amax(dim=2)
    outcome = Outcome(log_own[..., 0], own[..., 0] > rival, mean_log)
    if to.wanted:
        if smoothing:
            errors.sub_(smoothing / errors.shape[2]).scatter_add_(2, place, torch.full_like(own, smoothing))
        errors.mul_(factors)
        (_tied_gradients if tied else _separate_gradients)(errors, z, weights, to)
    return outcome


def _logits(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    dims: Sequence[int],
    sums: torch.dtype,
    *,
    tied: bool,
) -> Tensor:
    """Return the logits (L, B, C) of all sizes."""
    products = z.new_empty(len(dims), len(z), len(weights[0]))
    if tied:
        for low, high, out in zip((0, *dims), dims, products, strict=False):
            torch.mm(z[:, low:high], weights[0][:, low:high].t(), out=out)
        logits = products.cumsum(dim=0, dtype=sums)
        return logits.add_(biases[0]) if biases else logits
    for dim, weight, out in zip(dims, weights, products, strict=True):
        torch.mm(prefix(z, dim), weight.t(), out=out)
    logits = products.to(sums)
    return logits.add_(torch.stack(list(biases))[:, None]) if biases else logits


def _tied_gradients(errors: Tensor, z: Tensor, weights: Sequence[Tensor], to: Gradients) -> None:
    """Block k of the columns gets the errors of all sizes that hold it: those of k and the larger ones."""
    summed = errors.flip(0).cumsum(dim=0)  # the largest size first
    if to.biases and (bias := to.biases[0]) is not None:
        torch.sum(summed[-1], 0, out=bias)
    summed, end = summed.to(z.dtype), to.dims[-1]
    by_weight = torch.empty_like(weights[0]) if to.weights[0] is not None else None
    by_z = torch.empty_like(z) if to.z is not None else None
    for error, (low, high) in zip(reversed(summed.unbind()), itertools.pairwise((0, *to.dims)), strict=True):
        if by_weight is not None:
            torch.mm(error.t(), z[:, low:high], out=by_weight[:, low:high])
        if by_z is not None:
            torch.mm(error, weights[0][:, low:high], out=by_z[:, low:high])
    for buffer, product in ((to.weights[0], by_weight), (to.z, by_z)):
        if buffer is not None and product is not None:
            prefix(buffer, end).copy_(prefix(product, end))


def _separate_gradients(errors: Tensor, z: Tensor, weights: Sequence[Tensor], to: Gradients) -> None:
    """Each matrix gets the errors of its own size; the features get those of all, added in full precision."""
    wanted = [buffer for buffer in to.biases if buffer is not None]
    if wanted:
        summed = errors.sum(dim=1)
        parts = [part for part, buffer in zip(summed, to.biases, strict=True) if buffer is not None]
        torch._foreach_copy_(wanted, parts)
    rounded = errors.to(z.dtype)
    if to.z is not None:
        for error, weight, dim in reversed(list(zip(rounded, weights, to.dims, strict=True))):
            part = prefix(to.z, dim)
            if dim == to.dims[-1]:
                part.copy_(error @ weight)
            else:
                part.add_(error @ weight)
    kept = [(buffer, number) for number, buffer in enumerate(to.weights) if buffer is not None]
    products = [rounded[number].t() @ prefix(z, to.dims[number]) for _, number in kept]
    if kept:
        torch._foreach_copy_([buffer for buffer, _ in kept], products)
