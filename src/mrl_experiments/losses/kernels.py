"""What `cross_entropy` does with the logits of a chunk of samples, in place."""

import torch
from torch import Tensor

from mrl_experiments.directions import SAME_SCORE

NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


def softmax_grad_(
    logits: Tensor, label: Tensor, target: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn logits into the gradients of the cross-entropy by them, in place.

    With p the softmax, t the target and s its sum: loss = s logsumexp(logits) - t . logits, and the
    gradients are scale (s p - t).

    Args:
        logits: (L, n, C).
        label: (n, 1) the class that is to lead.
        target: (n, C), or None where it is 1 at the label and 0 elsewhere.
        scale: (L, n, 1).

    Returns:
        The loss of each sample (L, n), and whether its target logit is above all others (L, n).
    """
    label = label.expand(len(logits), -1, -1)
    log_p = torch.log_softmax(logits, 2, out=logits)
    of_label = log_p.gather(2, label)
    runner_up = log_p.scatter_(2, label, -torch.inf).amax(2, keepdim=True)
    log_p.scatter_(2, label, of_label)
    correct = (of_label - SAME_SCORE > runner_up)[..., 0]
    if target is None:
        loss = -of_label[..., 0]
        log_p.exp_().mul_(scale).scatter_add_(2, label, -scale)
    else:
        loss = -torch.einsum("lnc,nc->ln", log_p, target)
        log_p.exp_().mul_(scale * target.sum(1, keepdim=True)).addcmul_(target, scale, value=-1)
    return loss, correct


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
