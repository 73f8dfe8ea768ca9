"""The nested cross-entropy (Eq. 1) as one function with a hand-written backward pass."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.losses.prefix_products import Gradients, Separate, Tied
from mrl_experiments.losses.softmax_rows import merge, softmax_, subtract_target_

KEPT_BYTES = 1 << 28  # what the logits of all sizes may take, in float32, until the backward pass
# Larger ones exist a chunk at a time, as large as fits a CPU's cache or as keeps a GPU busy.
CHUNK_BYTES = {"cpu": 1 << 24, "cuda": 1 << 27}


class NestedLosses(NamedTuple):
    """What one pass over the logits of all sizes gives, L = number of sizes.

    losses: (L,) mean cross-entropy over the samples that count, differentiable; 0 where none counts.
    correct: (L,) number of samples whose label has the highest logit, float32; a tie is not correct.
    counted: () number of samples that count.
    """

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
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> NestedLosses:
    """Return the cross-entropy of a linear classifier on the first m features, for each m in `dims`.

    The values are those of `F.cross_entropy(F.linear(z[..., :m], W_m, b_m), y)`, one a size; the caller
    weights and adds them up. Logits of more than KEPT_BYTES exist for a chunk of the classes at a time and
    are computed anew in the backward pass.

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
    options = Options(tuple(dims), tied, precision, label_smoothing, ignore_index)
    with torch.autocast(device, enabled=False):
        outputs = _NestedCrossEntropy.apply(z.flatten(0, -2), y.flatten(), options, *weights, *biases)
    return NestedLosses(*outputs)


class _NestedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, y: Tensor, options: Options, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = _Head(z.to(options.precision), parameters, options)
        kept = y != options.ignore_index
        label, counted = torch.where(kept, y, 0), kept.sum()
        parts, errors = [], []
        for chunk in head.chunks:
            errors = head.buffers(chunk)
            parts.append(
                [
                    softmax_(level, label - chunk.start, with_total=options.label_smoothing > 0)
                    for level in head.logits(chunk, errors)
                ]
            )
        rows = merge(parts)
        if len(head.chunks) == 1:
            head.subtract_target_(errors, label)
        else:
            errors = []
        share = kept.to(head.sums) / counted.clamp(min=1)  # of each sample in the mean
        smooth = rows.log_sum - rows.total / head.classes
        losses = torch.lerp(rows.log_sum - rows.own, smooth, options.label_smoothing) @ share
        correct = ((rows.own > rows.rival) & kept).sum(1).float()
        ctx.mark_non_differentiable(correct, counted)
        ctx.save_for_backward(label, share, rows.log_sum, head.z, *errors, *head.weights, *head.biases)
        ctx.kept = len(errors)
        ctx.options, ctx.dtypes = options, [tensor.dtype for tensor in (z, *parameters)]
        return losses, correct, counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        label, share, log_sum, z, *rest = ctx.saved_tensors
        errors, parameters = rest[: ctx.kept], rest[ctx.kept :]
        head = _Head(z, parameters, ctx.options)
        wanted = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        buffers = [
            torch.empty_like(tensor, dtype=head.sums) if want else None
            for tensor, want in zip((z, *parameters), wanted, strict=True)
        ]
        scale = grad[:, None] * share
        with torch.autocast(z.device.type, enabled=False):
            for chunk in head.chunks:
                if not ctx.kept:
                    errors = head.buffers(chunk)
                    for level, normaliser in zip(head.logits(chunk, errors), log_sum, strict=True):
                        level.sub_(normaliser[:, None]).exp_()
                    head.subtract_target_(errors, label - chunk.start)
                head.gradients(errors, scale, chunk, buffers)
        dz, *others = (
            buffer if buffer is None else buffer.to(dtype)
            for buffer, dtype in zip(buffers, ctx.dtypes, strict=True)
        )
        return dz, None, None, *others


class _Head:
    """The classifiers of all sizes, seen through chunks of their classes."""

    def __init__(self, z: Tensor, parameters: Sequence[Tensor], options: Options) -> None:
        self.count = 1 if options.tied else len(options.dims)
        self.z, self.options = z, options
        self.weights = [weight.to(options.precision) for weight in parameters[: self.count]]
        self.biases = parameters[self.count :]
        self.classes = len(self.weights[0])
        self.sums = torch.promote_types(z.dtype, torch.float32)
        self.products = Tied if options.tied else Separate
        self.chunks = self._chunks()

    def buffers(self, chunk: slice) -> list[Tensor]:
        """Return room for the logits of a chunk of the classes, L of (B, c)."""
        shape = (len(self.z), chunk.stop - chunk.start)
        return [torch.empty(shape, dtype=self.sums, device=self.z.device) for _ in self.options.dims]

    def logits(self, chunk: slice, out: Sequence[Tensor]) -> Iterator[Tensor]:
        """Fill `out` size by size; what is yielded may be overwritten at once, while it is in the cache."""
        weights, biases = [w[chunk] for w in self.weights], [b[chunk] for b in self.biases]
        return self.products.logits(self.z, weights, biases, self.options.dims, out)

    def subtract_target_(self, probabilities: Sequence[Tensor], label: Tensor) -> None:
        """Turn probabilities, L of (B, c), into derivatives of the losses by the logits."""
        smoothing = self.options.label_smoothing
        for level in probabilities:
            subtract_target_(level, label, 1 - smoothing, smoothing / self.classes)

    def gradients(
        self, errors: Sequence[Tensor], scale: Tensor, chunk: slice, buffers: Sequence[Tensor | None]
    ) -> None:
        """Write a chunk's share of the gradients into the buffers of z, weights and biases."""
        z, *others = buffers
        part = [buffer if buffer is None else buffer[chunk] for buffer in others]
        to = Gradients(z, part[: self.count], part[self.count :], fresh=chunk.start == 0)
        weights = [weight[chunk] for weight in self.weights]
        self.products.gradients(errors, scale, self.z, weights, self.options.dims, to)

    def _chunks(self) -> list[slice]:
        size = len(self.options.dims) * len(self.z) * self.classes * self.sums.itemsize
        budget = CHUNK_BYTES["cpu" if self.z.device.type == "cpu" else "cuda"]
        count = 1 if size <= KEPT_BYTES else -(-size // budget)
        step = -(-self.classes // min(count, self.classes))
        return [slice(low, min(low + step, self.classes)) for low in range(0, self.classes, step)]
