"""Nested cross-entropy (Kusupati et al., 2022, Eq. 1): its definition, and the same loss in bounded memory.

Shapes: N samples, D features, C classes, L dims. MRL has a weight (C, m) for each dim m, MRL-E one tied
weight (C, D) whose first m columns serve dim m.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.errors import UserError
from mrl_experiments.nested_accuracy import SAME_SCORE
from mrl_experiments.nesting import prefix

CHUNK_BYTES = 1 << 25  # of logits that exist at a time; a sixteenth of the samples fits always
TOGETHER = {
    "cuda"
}  # devices on which all dims go through each kernel together, since starting it is what costs
NARROW = 16  # MKL writes fewer columns than this up to 15 times slower than their transpose


def nested_cross_entropy_loop(
    z: Tensor,
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | Sequence[Tensor] | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy (L,) of each dim: the definition, dim by dim, with which all else must agree.

    The loss of a training step is the sum over dims of c_m times these (Eq. 1); see `nested_cross_entropy`.
    """
    losses = []
    for level, dim in enumerate(dims):
        own_weight = prefix(weight, dim) if isinstance(weight, Tensor) else weight[level]
        own_bias = bias if bias is None or isinstance(bias, Tensor) else bias[level]
        logits = F.linear(prefix(z, dim), own_weight, own_bias)
        loss = F.cross_entropy(
            logits, y, class_weight, None, ignore_index, None, "none", label_smoothing=label_smoothing
        )
        losses.append(_sample_shares(y, loss, ignore_index, class_weight, sample_weight) @ loss)
    return torch.stack(losses)


class NestedLosses(NamedTuple):
    """What one pass over the logits of all dims gives.

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
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | Sequence[Tensor] | None,
    y: Tensor,
    dims: Sequence[int],
    *,
    loss_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> NestedLosses:
    """Return the nested cross-entropy, its gradients made in the forward pass, a chunk of samples at a time.

    Under autocast the matrix products are taken in its precision, everything else in float32.

    Args:
        z: features (..., D).
        weight: (C, m) for each dim (MRL), or one (C, D) of which dim m takes the first m columns (MRL-E).
        bias: (C,) for each dim, or one (C,) beside a tied weight, or None.
        y: labels (...), int64 in [0, C), or probabilities (..., C), as mixup makes them.
        dims: the nested dims, ascending.
        loss_weights: (L,) c_m of Eq. 1; None is 1 for every dim. They get no gradient.
        label_smoothing: share of the target that is spread over all classes.
        ignore_index: samples of this label do not count, whatever their features hold.
        class_weight: (C,) as in `F.cross_entropy`, also for the mean.
        sample_weight: (...) weight of each sample in the mean.
        chunk_bytes: how many bytes of logits may exist at a time.

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
    tied = isinstance(weight, Tensor)
    weights = [weight] if isinstance(weight, Tensor) else list(weight)
    biases = [] if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    z, device, full = z.flatten(0, -2), z.device.type, torch.promote_types(z.dtype, torch.float32)
    y = y.flatten(0, -2) if y.is_floating_point() else _checked(y.flatten(), len(weights[0]), ignore_index)
    scales = z.new_ones(len(dims), dtype=full) if loss_weights is None else loss_weights.detach().to(full)
    setting = _Setting(
        dims=tuple(dims),
        tied=tied,
        dtype=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else z.dtype,
        label_smoothing=label_smoothing,
        y=y,
        counts=torch.ones_like(y[:, 0], dtype=torch.bool) if y.ndim == 2 else y != ignore_index,
        shares=_sample_shares(y, scales, ignore_index, class_weight, sample_weight),
        scales=scales,
        class_weight=class_weight,
        chunk_bytes=chunk_bytes,
    )
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            return NestedLosses(*_NestedCrossEntropy.apply(setting, z, *weights, *biases))
        return _Pass(setting, (z, *weights, *biases), needs_grad=()).run()


def _checked(y: Tensor, classes: int, ignore_index: int) -> Tensor:
    wrong = (y != ignore_index) & ((y < 0) | (y >= classes))
    if y.is_cuda:
        torch._assert_async(~wrong.any(), f"labels of the loss: not all lie from 0 to {classes - 1}")
    elif wrong.any():
        raise UserError(
            f"label {y[wrong][0]} is no class", expected=f"labels from 0 to {classes - 1}, or {ignore_index}"
        )
    return y


def _sample_shares(
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


class _Setting(NamedTuple):
    """What the loss was asked for, apart from the tensors that get gradients; shapes as in a pass."""

    dims: tuple[int, ...]
    tied: bool
    dtype: torch.dtype  # of the matrix products
    label_smoothing: float
    y: Tensor
    counts: Tensor  # (N,) whether a sample counts
    shares: Tensor  # (N,) the share of each sample in the mean
    scales: Tensor  # (L,) c_m
    class_weight: Tensor | None
    chunk_bytes: int


class _NestedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, setting: _Setting, *tensors: Tensor) -> NestedLosses:
        ctx.setting, ctx.needs_grad = setting, ctx.needs_input_grad[1:]
        one = _Pass(setting, tensors, ctx.needs_grad)
        out, ctx.grads = one.run(), one.grads
        ctx.mark_non_differentiable(*out[1:])
        ctx.save_for_backward(*tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        grads, ctx.grads = ctx.grads, None  # handed on, not copied: autograd may keep them as they are
        if grads is None:  # they went with an earlier backward pass through this graph
            again = _Pass(ctx.setting, tensors, ctx.needs_grad)
            again.run()
            grads = again.grads
        if grad.is_cuda or grad.item() != 1:  # in float32: a loss scale comes before half precision does
            torch._foreach_mul_([g for g in grads if g is not None], grad)
        pairs = zip(grads, tensors, strict=True)
        return None, *(g if g is None else g.to(tensor.dtype) for g, tensor in pairs)


class _Pass:
    """One pass over z (N, D) and its classifiers; `grads` are the gradients by z and parameters, in float32.

    A tied classifier goes block by block, block k being the columns from the dim before to dim k: its logits
    are those of the dim before plus one product, its gradients come from all dims that hold the block.
    """

    def __init__(self, setting: _Setting, tensors: Sequence[Tensor], needs_grad: Sequence[bool]) -> None:
        self.setting, self.full, self.needs_grad = setting, setting.shares.dtype, any(needs_grad)
        self.matrices = 1 if setting.tied else len(setting.dims)
        z, *parameters = (tensor.to(setting.dtype) for tensor in tensors[: 1 + self.matrices])
        clean = not z.is_cuda and bool(setting.counts.all())
        self.z = z if clean else torch.where(setting.counts[:, None], z, 0)  # what does not count may be NaN
        self.weights, self.biases = parameters, tensors[1 + self.matrices :]
        self.classes = len(self.weights[0])
        make = torch.empty_like if len(z) else torch.zeros_like
        pairs = zip(tensors, needs_grad or [False] * len(tensors), strict=True)
        self.grads = [make(tensor, dtype=self.full) if needs else None for tensor, needs in pairs]
        for buffer in self.grads[: 1 + self.matrices]:
            if buffer is not None:
                buffer[:, setting.dims[-1] :] = 0

    def run(self) -> NestedLosses:
        """Return the losses, and fill the gradients, a chunk of samples at a time."""
        own, levels, count = self.setting, len(self.setting.dims), len(self.z)
        losses, correct = torch.zeros_like(own.scales), torch.zeros_like(own.scales, dtype=torch.float32)
        power = _power_of_two(own.shares, own.scales) if own.dtype == torch.float16 else None
        together, single = self.z.device.type in TOGETHER, [range(k, k + 1) for k in range(levels)]
        # Separate classifiers take turns, the largest first: it writes all columns of the gradient by z.
        groups = [range(levels)] if together or own.tied else single[::-1]
        row_bytes = len(groups[0]) * self.classes * self.full.itemsize
        step = min(count, max(1, count // 16, own.chunk_bytes // row_bytes))
        scratch = self.z.new_empty(len(groups[0]), step, self.classes, dtype=self.full)
        for rows in (slice(low, low + step) for low in range(0, count, step or 1)):
            label, dense = self._target(rows)
            for group in groups:
                logits = self._logits(rows, group, scratch)
                for part in groups if together else single[group.start : group.stop]:
                    some = logits[part.start - group.start : part.stop - group.start]
                    scale = (own.scales[part.start : part.stop, None] * own.shares[rows])[..., None]
                    scale = scale if power is None else scale * power
                    loss, hits = _softmax_grad_(some, label, dense, own.label_smoothing, scale)
                    losses[part.start : part.stop] += loss @ own.shares[rows]
                    correct[part.start : part.stop] += (hits & own.counts[rows]).sum(1)
                if self.needs_grad:
                    self._add_gradients(logits, rows, group)
        if power is not None:
            torch._foreach_div_([grad for grad in self.grads if grad is not None], power)
        return NestedLosses(own.scales @ losses, losses, correct, own.counts.sum())

    def _target(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return the class (n, 1) that is to lead and, where it does not tell all, the targets (n, C)."""
        y, smoothing, weight = self.setting.y[rows], self.setting.label_smoothing, self.setting.class_weight
        if y.ndim == 1:
            y = torch.where(self.setting.counts[rows], y, 0)
            if weight is None:
                return y[:, None], None
        dense = y if y.ndim == 2 else F.one_hot(y, self.classes).to(self.full)
        label = y.argmax(1, keepdim=True) if y.ndim == 2 else y[:, None]
        dense = (1 - smoothing) * dense.to(self.full) + smoothing / self.classes
        return label, dense if weight is None else dense * weight

    def _columns(self, level: int) -> tuple[int, slice]:
        """Return which weight serves a level, and which of the columns it adds."""
        dims = self.setting.dims
        if self.setting.tied:
            return 0, slice(dims[level - 1] if level else 0, dims[level])
        return level, slice(0, dims[level])

    def _logits(self, rows: slice, group: range, scratch: Tensor) -> Tensor:
        """Return the logits (G, n, C) of some samples at the dims of a group, a view of `scratch`."""
        z = self.z[rows]
        logits = scratch[:, : len(z)]
        for level, out in zip(group, logits, strict=True):
            own, columns = self._columns(level)
            start = self.biases[own].to(self.full) if self.biases else None
            start = logits[level - 1] if self.setting.tied and level else start
            _matmul(z[:, columns], self.weights[own][:, columns].t(), out, start)
        return logits

    def _add_gradients(self, grad_logits: Tensor, rows: slice, group: range) -> None:
        """Add what the gradients of the logits (G, n, C) give to those of z and the parameters."""
        first, tied, total = rows.start == 0, self.setting.tied, None
        for level, part in zip(reversed(group), reversed(grad_logits.unbind()), strict=True):
            total = part if total is None or not tied else total.add_(part)
            rounded, (own, columns) = total.to(self.z.dtype), self._columns(level)
            if (grad := self.grads[1 + own]) is not None:
                out = grad[:, columns]
                _matmul(rounded.t(), self.z[rows, columns], out, None if first else out)
            if (grad := self.grads[0]) is not None:
                out, overwrite = grad[rows, columns], tied or level == len(self.setting.dims) - 1
                _matmul(rounded, self.weights[own][:, columns], out, None if overwrite else out)
            last = not tied or level == 0  # of those that add to this bias
            if self.biases and last and (grad := self.grads[1 + self.matrices + own]) is not None:
                torch.sum(total, 0, out=grad) if first else grad.add_(total.sum(0))


def _power_of_two(shares: Tensor, scales: Tensor) -> Tensor:
    """Return what brings the gradients of the logits, of which many are tiny, into the range of float16."""
    largest = shares.abs().amax() * scales.abs().amax() if len(shares) else shares.new_ones(())
    return torch.exp2(10 - largest.clamp(min=1e-30).log2().ceil())


def _softmax_grad_(
    logits: Tensor, label: Tensor, dense: Tensor | None, smoothing: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn logits (G, n, C) into the loss's gradients by them, times `scale` (G, n, 1).

    Returns the loss of each sample (G, n), and whether its target logit is above all others (G, n).
    """
    label = label.expand(len(logits), -1, -1)
    own = logits.gather(2, label)
    runner_up = logits.scatter_(2, label, -torch.inf).amax(2, keepdim=True)
    logits.scatter_(2, label, own)
    top = torch.maximum(own, runner_up)
    if dense is None:
        mass: Tensor | float = 1.0
        loss = (1 - smoothing) * (top - own)
        if smoothing:
            loss += smoothing * (top - logits.mean(2, keepdim=True))
    else:
        mass = dense.sum(1, keepdim=True)
        loss = -torch.einsum("gnc,nc->gn", logits.sub_(top), dense)[..., None]
    torch.softmax(logits, 2, out=logits)
    loss -= mass * logits.amax(2, keepdim=True).log()  # the largest probability is never 0
    logits.mul_(scale * mass)
    if dense is not None:
        logits.addcmul_(dense, scale, value=-1)
    else:
        logits.scatter_add_(2, label, (smoothing - 1) * scale)
        if smoothing:
            logits.sub_(scale * (smoothing / logits.shape[2]))
    return loss[..., 0], (own - SAME_SCORE > runner_up)[..., 0]


def _matmul(a: Tensor, b: Tensor, out: Tensor, start: Tensor | None) -> None:
    """Set out = start + a @ b, added in the dtype of `out`; `start` may be `out` itself, None is zero."""
    narrow = out.shape[1] < NARROW and not out.is_cuda
    if a.dtype == torch.float16 and not a.is_cuda:  # a CPU rounds half products to half precision
        a, b = a.to(out.dtype), b.to(out.dtype)
    if a.dtype == out.dtype and not narrow:
        torch.mm(a, b, out=out) if start is None else torch.addmm(start, a, b, out=out)
        return
    if a.is_cuda:
        product = torch.mm(a, b, out_dtype=out.dtype)
    elif narrow:
        product = (b.t() @ a.t()).t()
    else:
        product = a @ b
    out.copy_(product) if start is None else torch.add(start, product, out=out)
