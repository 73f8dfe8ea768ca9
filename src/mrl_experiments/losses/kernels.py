"""What `cross_entropy` does with the logits of a chunk of samples, in place."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from mrl_experiments.directions import SAME_SCORE

NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


Share: TypeAlias = float | Tensor  # one for all dims, or (L, 1, 1)


class Target(NamedTuple):
    """What the logits (L, n, C) are to predict: a sum of three things.

    on_label: Share of the label.
    on_all: Share of every class.
    dense: Shares of what (n, C) holds.
    """

    on_label: Share
    on_all: Share
    dense: Sequence[tuple[Share, Tensor]]


def softmax_grad_(logits: Tensor, label: Tensor, target: Target, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into the gradients of the cross-entropy by them, in place.

    With p the softmax, t the target and s its sum: loss = s logsumexp(logits) - t . logits, and the
    gradients are scale (s p - t).

    Args:
        logits: (L, n, C).
        label: (n, 1) the class that is to lead.
        target: t.
        scale: (L, n, 1).

    Returns:
        The loss of each sample (L, n), and whether its target logit is above all others (L, n).
    """
    label = label.expand(len(logits), -1, -1)
    target_logit = logits.gather(2, label)
    runner_up = logits.scatter_(2, label, -torch.inf).amax(2, keepdim=True)
    logits.scatter_(2, label, target_logit)
    top = torch.maximum(target_logit, runner_up)
    loss, mass = target.on_label * (top - target_logit), target.on_label + target.on_all * logits.shape[2]
    smooth = isinstance(target.on_all, Tensor) or target.on_all != 0
    if smooth or target.dense:
        logits.sub_(top)
    if smooth:
        loss -= target.on_all * logits.sum(2, keepdim=True)
    for share, dense in target.dense:
        loss -= share * torch.einsum("lnc,nc->ln", logits, dense)[..., None]
        mass = mass + share * dense.sum(1, keepdim=True)
    torch.softmax(logits, 2, out=logits)
    loss -= mass * logits.amax(2, keepdim=True).log()  # the largest probability is never 0
    logits.mul_(scale * mass)
    if smooth:
        logits.sub_(scale * target.on_all)
    logits.scatter_add_(2, label, -scale * target.on_label)
    for share, dense in target.dense:
        logits.addcmul_(dense, scale * share, value=-1)
    return loss[..., 0], (target_logit - SAME_SCORE > runner_up)[..., 0]


def matmul(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None) -> None:
    """Set out = start + a @ b, added in the dtype of `out`; `start` may be `out` itself, None is zero."""
    if a.dtype == torch.float16 and not a.is_cuda:  # a CPU rounds half products to half precision
        a, b = a.to(out.dtype), b.to(out.dtype)
    if out.shape[1] < NARROW and not out.is_cuda:
        product = (b.t() @ a.t()).t()
    elif a.dtype == out.dtype:
        torch.mm(a, b, out=out) if start is None else torch.addmm(start, a, b, out=out)
        return
    else:
        product = torch.mm(a, b, out_dtype=out.dtype) if a.is_cuda else a @ b
    out.copy_(product) if start is None else torch.add(start, product, out=out)


def power_of_two(scales: Tensor) -> Tensor:
    """Return what brings gradients by logits, of which many are tiny, into the range of float16.

    scales: what multiplies them, of any shape.
    """
    largest = scales.abs().amax() if scales.numel() else scales.new_ones(())
    return torch.exp2(10 - largest.clamp(min=1e-30).log2().ceil())
