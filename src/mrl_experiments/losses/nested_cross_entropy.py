"""The nested cross-entropy (Eq. 1) as one function, whose gradients are ready when its forward pass ends."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.losses.nested_head import NestedHead


class NestedLosses(NamedTuple):
    """What one pass over the logits of all sizes gives, L = number of sizes.

    total: () the weighted sum of the losses, which alone is differentiable.
    losses: (L,) mean cross-entropy over the samples that count; 0 where none counts.
    correct: (L,) number of samples whose label has the highest logit, float32; a tie is not correct.
    counted: () number of samples that count.
    """

    total: Tensor
    losses: Tensor
    correct: Tensor
    counted: Tensor


class Options(NamedTuple):
    """What `nested_cross_entropy` was asked to do, apart from tensors."""

    dims: tuple[int, ...]
    tied: bool
    precision: torch.dtype
    label_smoothing: float
    ignore_index: int


@torch.compiler.disable  # the kernels below are chosen by hand; what surrounds them is still compiled
def nested_cross_entropy(
    z: Tensor,
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | Sequence[Tensor] | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    loss_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> NestedLosses:
    """Return the cross-entropy of a linear classifier on the first m features, for each m in `dims`.

    The values are those of `F.cross_entropy(F.linear(z[..., :m], W_m, b_m), y)`, one a size. The gradients
    are computed here too, while the logits are in the cache; the backward pass hands them on.

    Parameters
    ----------
    z: features (..., D). Their gradient, of all sizes together, comes back in one buffer.
    weight: (C, m) for each size (MRL), or one (C, D) of which size m takes the first m columns (MRL-E).
    bias: (C,) for each size, or one (C,) beside a single weight, or None.
    y: labels (...), int64 in [0, C); those equal to `ignore_index` do not count.
    loss_weights: (L,) c_m of Eq. 1; None is 1 for every size. They get no gradient.

    Under autocast the products are taken in its precision, everything else in float32.
    """
    tied = isinstance(weight, Tensor)
    weights = [weight] if isinstance(weight, Tensor) else list(weight)
    biases = [] if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    device = z.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else z.dtype
    options = Options(tuple(dims), tied, precision, label_smoothing, ignore_index)
    if loss_weights is None:
        loss_weights = z.new_ones(len(dims))
    samples = z.flatten(0, -2), y.flatten(), loss_weights.detach()
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            return NestedLosses(*_NestedCrossEntropy.apply(*samples, options, *weights, *biases))
        return _compute(*samples, options, *weights, *biases, wanted=())[0]


class _NestedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, y: Tensor, loss_weights: Tensor, options: Options, *parameters: Tensor
    ) -> NestedLosses:
        ctx.wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        out, ctx.gradients = _compute(z, y, loss_weights, options, *parameters, wanted=ctx.wanted)
        ctx.mark_non_differentiable(out.losses, out.correct, out.counted)
        ctx.save_for_backward(z, y, loss_weights, *parameters)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # handed on, not copied: autograd may keep them
        if gradients is None:  # they went with an earlier pass through this graph
            z, y, loss_weights, *parameters = ctx.saved_tensors
            _, gradients = _compute(z, y, loss_weights, ctx.options, *parameters, wanted=ctx.wanted)
        if grad.device.type != "cpu" or grad.item() != 1:
            torch._foreach_mul_([gradient for gradient in gradients if gradient is not None], grad)
        return gradients[0], None, None, None, *gradients[1:]


def _compute(
    z: Tensor,
    y: Tensor,
    loss_weights: Tensor,
    options: Options,
    *parameters: Tensor,
    wanted: Sequence[bool],
) -> tuple[NestedLosses, list[Tensor | None]]:
    """Return the losses, and their gradients by z and the parameters where `wanted`."""
    count = 1 if options.tied else len(options.dims)
    head = NestedHead(
        z.to(options.precision),
        parameters[:count],
        parameters[count:],
        options.dims,
        tied=options.tied,
        smoothing=options.label_smoothing,
    )
    kept = y != options.ignore_index
    label, counted = torch.where(kept, y, 0), kept.sum()
    share = kept.to(head.sums) / counted.clamp(min=1)  # of each sample in the mean
    to = head.gradients_to(wanted)
    factors = loss_weights.to(head.sums)[:, None, None] * share[:, None]
    outcome = head.outcome_and_gradients(label, factors, to)
    log_target = outcome.log_own
    if options.label_smoothing:
        log_target = torch.lerp(log_target, outcome.mean_log, options.label_smoothing)
    losses = -(log_target @ share)
    correct = (outcome.correct & kept).sum(1).float()
    out = NestedLosses(loss_weights.to(losses) @ losses, losses, correct, counted)
    given = [to.z, *to.weights, *to.biases]
    types = [tensor.dtype for tensor in (z, *parameters)]
    pairs = zip(given, types, strict=True)
    return out, [g if g is None or g.dtype == dtype else g.to(dtype) for g, dtype in pairs]
