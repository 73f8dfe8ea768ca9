"""Nested cross-entropy (Kusupati et al., 2022, Eq. 1): its definition, and the same loss in bounded memory.

Shapes: N samples, D features, C classes, L dims. MRL has a weight (C, m) for each dim m, MRL-E one tied
weight (C, D) whose first m columns serve dim m.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.errors import UserError
from mrl_experiments.losses.kernels import Share, Target, matmul, power_of_two, softmax_grad_
from mrl_experiments.nesting import prefix

Tensors = Sequence[Tensor]
CHUNK_BYTES = 1 << 25  # of logits at a time


def nested_cross_entropy_loop(
    z: Tensor,
    weight: Tensor | Tensors,
    bias: Tensor | Tensors | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    teach_alone: int = 0,
    distillation: Tensor | None = None,
    class_weight: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return the cross-entropy (L,) of each dim; the sum of c_m times these is Eq. 1: the definition.

    z: (N, D). y: (N,) or (N, C). `teach_alone` and `distillation` as in `nested_cross_entropy`; other
    `options` go to `F.cross_entropy`, no `reduction` beside `distillation`. Tests compare all else with it.
    """
    logits = []
    for k, dim in enumerate(dims):
        start = _first_taught(dims, k, teach_alone)
        weight_k = _detach_first(prefix(weight, dim), start) if isinstance(weight, Tensor) else weight[k]
        bias_k = bias if bias is None or isinstance(bias, Tensor) else bias[k]
        logits.append(F.linear(_detach_first(prefix(z, dim), start), weight_k, bias_k))
    losses = torch.stack([F.cross_entropy(each, y, class_weight, **options) for each in logits])
    if distillation is None:
        return losses
    scale = _sample_scale(y, losses, options.get("ignore_index", -100), class_weight, None)
    kept = scale != 0  # what does not count may be NaN
    full = logits[-1][kept].detach().softmax(1)
    each_soft = [F.cross_entropy(each[kept], full, class_weight, reduction="none") for each in logits]
    soft = [scale[kept] @ of_dim for of_dim in each_soft]
    return torch.lerp(losses, torch.stack(soft), distillation.to(losses.dtype))


def _first_taught(dims: Sequence[int], k: int, teach_alone: int) -> int:
    """Return the first column that the loss of dim k teaches: those before it have another teacher."""
    alone = min(k, teach_alone)
    return dims[alone - 1] if alone else 0


def _detach_first(tensor: Tensor, columns: int) -> Tensor:
    return torch.cat([tensor[:, :columns].detach(), tensor[:, columns:]], dim=1)


class NestedLosses(NamedTuple):
    """What one pass over the logits of all dims gives; with distillation, losses of dims do not compare.

    total: () the weighted sum of the losses, which alone is differentiable.
    losses: (L,) weighted mean cross-entropy of the samples that count; 0 where none counts.
    correct: (L,) number of samples whose target logit is above all others, float32; a tie is not correct.
    counted: () number of samples that count.
    """

    total: Tensor
    losses: Tensor
    correct: Tensor
    counted: Tensor


@torch.compiler.disable
def nested_cross_entropy(
    z: Tensor,
    weight: Tensor | Tensors,
    bias: Tensor | Tensors | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    loss_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    teach_alone: int = 0,
    distillation: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> NestedLosses:
    """Return the nested cross-entropy, its gradients made in the forward pass, a chunk of samples at a time.

    Args:
        z: features (..., D). Under autocast products are in its precision, everything else in float32.
        weight: (C, m) for each dim (MRL), or one (C, D) of which dim m takes the first m columns (MRL-E).
        bias: (C,) for each dim, or one (C,) beside a tied weight, or None.
        y: labels (...), int64 in [0, C), or probabilities (..., C), as mixup makes them.
        dims: the nested dims, ascending.
        loss_weights: (L,) c_m of Eq. 1; None is 1 for every dim. They get no gradient.
        label_smoothing: share of the target that is spread over all classes.
        ignore_index: samples of this label do not count, whatever their features hold.
        class_weight: (C,) as in `F.cross_entropy`, also for the mean.
        sample_weight: (...) weight of each sample in the mean.
        teach_alone: number of the smallest dims whose own columns of z, and of a tied weight, get a gradient
            from that dim's loss only; larger dims read these as constants. Biases and weights of one dim
            learn as in Eq. 1. docs/recipe.md says what that gains.
        distillation: (L,) share of each dim's target that is what the largest dim predicts, as a constant
            (Hinton, Vinyals and Dean, 2015, at temperature 1); None is 0 for every dim.
        chunk_bytes: of logits at a time; a sixteenth of the samples is done at a time even if they take more.

    Raises:
        UserError: for labels that are no class; on a GPU an assertion of the device, which need not wait.

    Example:
        >>> z, y = torch.randn(32, 64, requires_grad=True), torch.randint(10, (32,))
        >>> weight, bias = torch.zeros(10, 64, requires_grad=True), torch.zeros(10)
        >>> out = nested_cross_entropy(z, weight, bias, y, dims=(8, 16, 32, 64))  # MRL-E
        >>> out.total.backward()
        >>> out.losses.shape, weight.grad.shape
        (torch.Size([4]), torch.Size([10, 64]))
    """
    weights = [prefix(weight, dims[-1])] if isinstance(weight, Tensor) else list(weight)
    biases = [] if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    device, acc_dtype = z.device.type, torch.promote_types(z.dtype, torch.float32)
    y = y.flatten(0, -2) if y.is_floating_point() else _checked(y.flatten(), len(weights[0]), ignore_index)
    ones = z.new_ones(len(dims), dtype=acc_dtype)
    task = _Pass(
        dims=tuple(dims),
        tied=isinstance(weight, Tensor),
        dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else z.dtype,
        y=y,
        counted=torch.ones_like(y[:, 0], dtype=torch.bool) if y.ndim == 2 else y != ignore_index,
        sample_scale=_sample_scale(y, ones, ignore_index, class_weight, sample_weight),
        loss_weights=ones if loss_weights is None else loss_weights.detach().to(acc_dtype),
        label_smoothing=label_smoothing,
        class_weight=class_weight,
        teach_alone=teach_alone,
        distillation=None if distillation is None else distillation.detach().to(acc_dtype)[:, None, None],
        chunk_bytes=chunk_bytes,
    )
    with torch.autocast(device, enabled=False):
        tensors = (prefix(z.flatten(0, -2), dims[-1]), *weights, *biases)
        if torch.is_grad_enabled():
            return NestedLosses(*_NestedCrossEntropy.apply(task, *tensors))
        return task.run(tensors, with_grads=False)[0]


def _checked(y: Tensor, classes: int, ignore_index: int) -> Tensor:
    wrong = (y != ignore_index) & ((y < 0) | (y >= classes))
    if not y.is_cuda and wrong.any():  # a GPU asserts it when the labels are used
        raise UserError(f"label {y[wrong][0]} is no class", expected=f"0 to {classes - 1}, or {ignore_index}")
    return y


def _sample_scale(
    y: Tensor, like: Tensor, ignore_index: int, class_weight: Tensor | None, sample_weight: Tensor | None
) -> Tensor:
    """Return the share of each sample (N,) in the mean, in the dtype of `like`; zeros where none counts."""
    shares = like.new_ones(len(y)) if y.ndim == 2 else (y != ignore_index).to(like.dtype)
    if sample_weight is not None:
        shares = shares * sample_weight.flatten().to(like.dtype)
    total = shares.sum()
    if class_weight is not None and y.ndim == 1:
        total = shares @ class_weight.to(like.dtype)[torch.where(y == ignore_index, 0, y)]
    return torch.where(total == 0, 0, shares / total)


class _NestedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass and, scaled, returned in the backward pass."""

    @staticmethod
    def forward(ctx: Any, task: "_Pass", *tensors: Tensor) -> NestedLosses:
        out, ctx.grads = task.run(tensors)
        ctx.task = task
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*out[1:])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # The gradients are handed on and may be changed: a second pass through this graph makes new ones.
        grads, ctx.grads = ctx.grads or ctx.task.run(ctx.saved_tensors)[1], None
        if grad.is_cuda or grad.item() != 1:  # in float32: a loss scale comes before half precision does
            torch._foreach_mul_(grads, grad)
        return None, *(own.to(tensor.dtype) for own, tensor in zip(grads, ctx.saved_tensors, strict=True))


@dataclass(frozen=True)
class _Pass:
    """One pass over z (N, D) and its classifiers, with what the loss was asked for."""

    dims: tuple[int, ...]
    tied: bool
    dtype: torch.dtype  # of the matrix products
    y: Tensor
    counted: Tensor  # (N,) whether a sample counts
    sample_scale: Tensor  # (N,) the share of each sample in the mean
    loss_weights: Tensor  # (L,)
    label_smoothing: float
    class_weight: Tensor | None
    teach_alone: int
    distillation: Tensor | None  # (L, 1, 1)
    chunk_bytes: int

    def run(self, tensors: Tensors, with_grads: bool = True) -> tuple[NestedLosses, list[Tensor]]:
        """Return the losses of z, weights and biases, and the gradients by each of these in float32."""
        z, *weights = (tensor.to(self.dtype) for tensor in tensors[: 2 if self.tied else 1 + len(self.dims)])
        z = torch.where(self.counted[:, None], z, 0)  # what does not count may be NaN
        biases, acc_dtype = tensors[1 + len(weights) :], self.sample_scale.dtype
        grads = [torch.empty_like(tensor, dtype=acc_dtype) for tensor in tensors if with_grads]
        for own in grads[:1] + grads[1 + len(weights) :]:
            own.zero_()  # of z and biases, to be added to; those of weights are written
        scales = self.loss_weights[:, None, None] * self.sample_scale[:, None]  # (L, N, 1)
        grad_scale = power_of_two(scales) if self.dtype == torch.float16 else 1.0
        classes, n_samples = len(weights[0]), len(z)
        step = max(1, n_samples // 16, self.chunk_bytes // (len(self.dims) * classes * acc_dtype.itemsize))
        scratch = z.new_empty(len(self.dims), min(step, n_samples), classes, dtype=acc_dtype)
        losses, correct = torch.zeros_like(self.loss_weights), torch.zeros(len(self.dims), device=z.device)
        for rows in (slice(low, low + step) for low in range(0, max(1, n_samples), step)):
            logits = self._logits(z[rows], weights, biases, scratch)
            label, target = self._target(rows, logits[-1])
            loss, hits = softmax_grad_(logits, label, target, scales[:, rows] * grad_scale)
            losses += loss @ self.sample_scale[rows]
            correct += (hits & self.counted[rows]).sum(1)
            if grads:
                self._add_gradients(logits, z, weights, grads, rows)
        if grads and self.dtype == torch.float16:
            torch._foreach_div_(grads, grad_scale)
        return NestedLosses(self.loss_weights @ losses, losses, correct, self.counted.sum()), grads

    def _target(self, rows: slice, full_logits: Tensor) -> tuple[Tensor, Target]:
        """Return the class (n, 1) that is to lead and the target. full_logits: (n, C) of the largest dim."""
        y, smoothing, classes = self.y[rows], self.label_smoothing, full_logits.shape[1]
        label = y.argmax(1) if y.ndim == 2 else torch.where(self.counted[rows], y, 0)
        given: Share = 1.0
        dense: list[tuple[Share, Tensor]] = []
        if self.distillation is not None:
            given, predicted = 1 - self.distillation, full_logits.softmax(1)
            predicted = predicted if self.class_weight is None else predicted * self.class_weight
            dense = [(self.distillation, predicted)]
        if y.ndim == 1 and self.class_weight is None:
            on_all = given * smoothing / classes if smoothing else 0.0
            return label[:, None], Target(given * (1 - smoothing), on_all, dense)
        target = (y if y.ndim == 2 else F.one_hot(label, classes)).to(self.sample_scale.dtype)
        target = (1 - smoothing) * target + smoothing / classes
        target = target if self.class_weight is None else target * self.class_weight
        return label[:, None], Target(0.0, 0.0, [(given, target), *dense])

    def _block(self, k: int) -> tuple[int, slice]:
        """Return which weight serves dim k, and its columns: all, or where tied those after dim k - 1."""
        start = self.dims[k - 1] if self.tied and k else 0
        return (0 if self.tied else k, slice(start, self.dims[k]))

    def _logits(self, z: Tensor, weights: list[Tensor], biases: Tensors, scratch: Tensor) -> Tensor:
        """Return the logits (L, n, C) of some samples at all dims, a view of `scratch`."""
        logits = scratch[:, : len(z)]
        for k, out in enumerate(logits):
            own, columns = self._block(k)
            start = logits[k - 1] if self.tied and k else biases[own].to(out.dtype) if biases else None
            matmul(z[:, columns], weights[own][:, columns].t(), out, start)
        return logits

    def _add_gradients(
        self, grad_logits: Tensor, z: Tensor, weights: list[Tensor], grads: Tensors, rows: slice
    ) -> None:
        """Add what the gradients by the logits (L, n, C) give to those by z, weights and biases."""
        first_chunk, has_bias, alone = rows.start == 0, len(grads) > 1 + len(weights), self.teach_alone
        for k in range(len(self.dims) - 1, -1, -1):
            (own, columns), grad = self._block(k), grad_logits[k]
            if self.tied and alone <= k < len(self.dims) - 1:  # of all dims from this one on
                grad.add_(grad_logits[k + 1])
            start = columns.start if self.tied else _first_taught(self.dims, k, alone)
            taught = slice(start, columns.stop)
            rounded, grad_z = grad.to(z.dtype), grads[0][rows, taught]
            matmul(rounded, weights[own][:, taught], grad_z, grad_z)
            grad_weight = grads[1 + own][:, columns]
            matmul(rounded.t(), z[rows, columns], grad_weight, None if first_chunk else grad_weight)
            if has_bias and (not self.tied or k <= alone):  # dim `alone` holds what all from it on give
                grads[1 + len(weights) + own].add_(grad.sum(0))
