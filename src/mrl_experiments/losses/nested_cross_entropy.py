"""The nested cross-entropy (Eq. 1) as one function with a hand-written backward pass."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.losses.prefix_products import Gradients, Separate, Tied

SCRATCH_BYTES = 1 << 27  # the logits of all sizes may take this much memory, or as much as the classifiers


class NestedLosses(NamedTuple):
    """What one pass over the logits of all sizes gives, L = number of sizes.

    losses: (L,) mean cross-entropy over the samples that count, differentiable; 0 where none counts.
    correct: (L,) number of samples whose label has the highest logit, float32; a tie is not correct.
    count: () number of samples that count.
    """

    losses: Tensor
    correct: Tensor
    count: Tensor


def nested_cross_entropy(
    z: Tensor,
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | Sequence[Tensor] | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> NestedLosses:
    """Return the cross-entropy of a linear classifier on the first m features, for each m in `dims`.

    The values are those of `F.cross_entropy(F.linear(z[..., :m], W_m, b_m), y)`, one a size; the caller
    weights and adds them up. Logits that would take more than SCRATCH_BYTES exist for one chunk of samples
    at a time and are computed anew in the backward pass.

    Parameters
    ----------
    z: features (..., D). Their gradient, of all sizes together, comes back in one buffer.
    weight: (C, m) for each size (MRL), or one (C, D) of which size m takes the first m columns (MRL-E).
    bias: (C,) for each size, or one (C,) beside a single weight, or None.
    y: labels (...), int64 in [0, C); those equal to `ignore_index` do not count.

    Under autocast the products are taken in its precision, everything else in float32.
    """
    tied = isinstance(weight, Tensor)
    weights = [weight] if isinstance(weight, Tensor) else list(weight)
    biases = [] if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    device = z.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else z.dtype
    options = (tuple(dims), tied, precision, label_smoothing, ignore_index)
    with torch.autocast(device, enabled=False):
        outputs = _NestedCrossEntropy.apply(z.flatten(0, -2), y.flatten(), options, *weights, *biases)
    return NestedLosses(*outputs)


class _NestedCrossEntropy(torch.autograd.Function):
    """Keeps the derivatives by the logits between the passes if they fit into the scratch memory."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, y: Tensor, options: tuple[Any, ...], *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims, tied, precision, smoothing, ignore_index = options
        count = 1 if tied else len(dims)
        weights, biases = parameters[:count], parameters[count:]
        kept = y != ignore_index
        label, counted = torch.where(kept, y, 0), kept.sum()
        rows = _rows_per_chunk(z, weights, len(dims))
        sums = torch.promote_types(z.dtype, torch.float32)
        share = kept.to(sums) / counted.clamp(min=1)
        cast = [weight.to(precision) for weight in weights]
        losses = correct = torch.zeros(len(dims), dtype=sums, device=z.device)
        errors = None
        for chunk in _chunks(len(z), rows):
            errors = _logits(z[chunk].to(precision), cast, biases, options, sums)
            loss, hit = _softmax_errors(errors, label[chunk], smoothing)
            losses = losses + loss @ share[chunk]
            correct = correct + hit.to(sums) @ kept[chunk].to(sums)
        ctx.save_for_backward(z, label, share, errors if rows >= len(z) else None, *parameters)
        ctx.options, ctx.count, ctx.rows = options, count, rows
        correct = correct.float()
        ctx.mark_non_differentiable(correct, counted)
        return losses, correct, counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        z, label, share, saved, *parameters = ctx.saved_tensors
        dims, tied, precision, smoothing, _ = ctx.options
        weights, biases = parameters[: ctx.count], parameters[ctx.count :]
        wanted = ctx.needs_input_grad
        sums = share.dtype
        dz = torch.empty_like(z, dtype=sums) if wanted[0] else None
        dweights = (
            [torch.empty_like(w, dtype=sums) for w in weights] if any(wanted[3 : 3 + ctx.count]) else []
        )
        dbiases = [torch.empty_like(b, dtype=sums) for b in biases] if any(wanted[3 + ctx.count :]) else []
        cast = [weight.to(precision) for weight in weights]
        products = Tied if tied else Separate
        with torch.autocast(z.device.type, enabled=False):
            for chunk in _chunks(len(z), ctx.rows):
                features = z[chunk].to(precision)
                errors = saved
                if errors is None:
                    errors = _logits(features, cast, biases, ctx.options, sums)
                    _softmax_errors(errors, label[chunk], smoothing)
                to = Gradients(None if dz is None else dz[chunk], dweights, dbiases, fresh=chunk.start == 0)
                products.gradients(errors, grad[:, None] * share[chunk], features, cast, dims, to)
        gradients = [buffer.to(p.dtype) for buffer, p in zip([*dweights, *dbiases], parameters, strict=True)]
        return dz if dz is None else dz.to(z.dtype), None, None, *gradients


def _logits(
    z: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    options: tuple[Any, ...],
    sums: torch.dtype,
) -> Tensor:
    dims, tied, *_ = options
    out = torch.empty(len(dims), len(z), len(weights[0]), dtype=sums, device=z.device)
    (Tied if tied else Separate).logits(z, weights, biases, dims, out)
    return out


def _softmax_errors(logits: Tensor, label: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Turn logits (L, B, C), in place, into the derivative of each sample's loss by them.

    Returns the losses (L, B) and whether the label's logit is above all others (L, B).
    """
    index = label.expand(len(logits), -1)[..., None]
    own = logits.gather(-1, index)
    mean = logits.mean(-1) if smoothing else None
    rival = logits.scatter_(-1, index, -torch.inf).amax(-1)
    logits.scatter_(-1, index, own)
    own = own[..., 0]
    top = torch.maximum(own, rival)
    torch.softmax(logits, -1, out=logits)
    log_sum = top - logits.amax(-1).log()  # the largest probability is exp(top - log_sum), never tiny
    losses = log_sum - own
    logits.scatter_add_(-1, index, logits.new_full((), smoothing - 1).expand(index.shape))
    if mean is not None:
        losses = (1 - smoothing) * losses + smoothing * (log_sum - mean)
        logits.sub_(smoothing / logits.shape[-1])
    return losses, own > rival


def _rows_per_chunk(z: Tensor, weights: Sequence[Tensor], sizes: int) -> int:
    classes = len(weights[0])
    row = sizes * classes * max(4, z.element_size())
    budget = max(SCRATCH_BYTES, sum(weight.numel() * weight.element_size() for weight in weights))
    chunks = -(-len(z) * row // budget)
    return -(-len(z) // max(1, chunks))


def _chunks(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
