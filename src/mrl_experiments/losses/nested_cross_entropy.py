"""The nested cross-entropy (Eq. 1) as one function, whose gradients are ready when its forward pass ends."""

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl_experiments.losses import levels_at_once
from mrl_experiments.losses.prefix_products import Gradients, Scale, Separate, Tied
from mrl_experiments.losses.softmax_rows import Outcome, Rows, Target, chunk_errors, errors_of, rows_of

# Logits and errors exist for as many samples at a time as fit twice the logits of one plain head, within
# these bounds; where these are fewer than LEAST_ROWS, they exist for some of the classes at a time.
ROOM_BYTES = {"cpu": (1 << 24, 1 << 28), "cuda": (1 << 27, 1 << 28)}  # at least, at most
LEAST_ROWS = 64  # with each chunk of samples all gradients of weights are read and written
CHUNK_BYTES = {"cpu": 1 << 24, "cuda": 1 << 27}  # of classes: fits a CPU's cache, keeps a GPU busy
AT_ONCE = {"cuda"}  # devices on which the number of kernels, not the cache, decides what all sizes cost
_own = threading.local()  # a thread's room for logits on the CPU: fresh memory costs a page fault every 4 KiB


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
    head = _Head(z.to(options.precision), parameters, options)
    kept = y != options.ignore_index
    label, counted = torch.where(kept, y, 0), kept.sum()
    share = kept.to(head.sums) / counted.clamp(min=1)  # of each sample in the mean
    to = head.gradients_to(wanted) if any(wanted) else None
    scale = _scale(loss_weights.to(head.sums), share, kept)
    exact = (
        bool(options.label_smoothing) or z.device.type in AT_ONCE
    )  # a GPU would have to wait to learn of an underflow
    outcome = head.outcome_and_gradients(label, scale, to, exact)
    if not exact and len(y) and outcome.log_own.amin() < math.log(torch.finfo(head.sums).tiny):
        outcome = head.outcome_and_gradients(label, scale, None, exact=True)
    losses = torch.lerp(-outcome.log_own, -outcome.mean_log, options.label_smoothing) @ share
    correct = (outcome.correct & kept).sum(1).float()
    out = NestedLosses(loss_weights.to(losses) @ losses, losses, correct, counted)
    given = [] if to is None else [to.z, *to.weights, *to.biases]
    types = [tensor.dtype for tensor in (z, *parameters)]
    return out, [g if g is None else g.to(dtype) for g, dtype in zip(given, types, strict=False)]


def _scale(loss_weights: Tensor, share: Tensor, kept: Tensor) -> Scale:
    """Return c_m times each sample's share: one number a size where all samples count (a GPU cannot tell)."""
    if share.device.type in AT_ONCE or not kept.all() or not loss_weights.all():
        return Scale([1.0] * len(loss_weights), loss_weights[:, None] * share)
    return Scale((loss_weights / max(1, len(share))).tolist(), None)


class _Head:
    """The classifiers of all sizes, seen through chunks of their classes."""

    def __init__(self, z: Tensor, parameters: Sequence[Tensor], options: Options) -> None:
        count = 1 if options.tied else len(options.dims)
        self.z, self.options = z, options
        self.weights = [weight.to(options.precision) for weight in parameters[:count]]
        self.biases = list(parameters[count:])
        self.classes = len(self.weights[0])
        self.sums = torch.promote_types(z.dtype, torch.float32)
        self.products = Tied if options.tied else Separate
        self.groups = self.products.groups(len(options.dims))

    def gradients_to(self, wanted: Sequence[bool]) -> Gradients:
        """Return buffers for the gradients of z and the parameters where `wanted`."""
        z, *others = (
            torch.empty_like(tensor, dtype=self.sums) if want else None
            for tensor, want in zip((self.z, *self.weights, *self.biases), wanted, strict=True)
        )
        for buffer in (z, *others):
            if buffer is not None and buffer.ndim == 2 and buffer.shape[1] > self.options.dims[-1]:
                buffer[:, self.options.dims[-1] :] = 0
        count = len(self.weights)
        return Gradients(z, others[:count], others[count:], self.options.dims)

    def outcome_and_gradients(
        self, label: Tensor, scale: Scale, to: Gradients | None, exact: bool
    ) -> Outcome:
        """Tell what became of the samples at all sizes, and add the gradients to `to`.

        exact: whether log-probabilities below the smallest normal number are to be right, too.
        """
        if scale.rows is not None and self._fits_at_once():
            return levels_at_once.outcome_and_gradients(
                self.z,
                self.weights,
                self.biases,
                self.options.dims,
                label,
                self.options.label_smoothing,
                scale.rows,
                to,
                tied=self.options.tied,
            )
        outcomes = [self._group(levels, label, scale, to, exact) for levels in self.groups]
        return Outcome.joined(outcomes[::-1])

    def _fits_at_once(self) -> bool:
        """Whether all sizes' logits may exist together, and their number of kernels is what counts."""
        size = len(self.options.dims) * len(self.z) * self.classes * self.sums.itemsize
        return self.z.device.type in AT_ONCE and size <= ROOM_BYTES["cuda"][1]

    def _group(
        self, levels: range, label: Tensor, scale: Scale, to: Gradients | None, exact: bool
    ) -> Outcome:
        """Do so for sizes that share their products."""
        step, count = self._rows_at_once(len(levels)), len(self.z)
        if step < min(count, LEAST_ROWS):
            return self._class_by_class(levels, label, scale, to)
        chunks = [slice(low, min(low + step, count)) for low in range(0, max(count, 1), max(step, 1))]
        parts = []
        for rows in chunks:
            some = self.z[rows], label[rows], scale.of_rows(rows), None if to is None else to.of_rows(rows)
            parts.append(self._all_classes(levels, *some, exact))
        return Outcome(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))

    def _all_classes(
        self, levels: range, z: Tensor, label: Tensor, scale: Scale, to: Gradients | None, exact: bool
    ) -> Outcome:
        """Do so for some of the samples, whose logits exist as a whole."""
        room, errors = self._room(len(levels), len(z), self.classes)
        logits = self.products.logits(levels, z, self.weights, self.biases, self.options.dims, room)
        outcome = errors_of(logits, label, self.options.label_smoothing, errors, exact)
        if to is not None:
            self.products.gradients(levels, errors, scale, z, self.weights, to)
        return outcome

    def _class_by_class(self, levels: range, label: Tensor, scale: Scale, to: Gradients | None) -> Outcome:
        """Do so for all samples, a chunk of the classes at a time, whose logits are made twice."""
        chunks = self._chunks(len(levels))
        rows = self._rows(levels, label, chunks)
        if to is not None:
            self._chunk_gradients(levels, label, scale, rows, chunks, to)
        return Outcome.joined([row.outcome(self.classes) for row in rows])

    def _rows(self, levels: range, label: Tensor, chunks: Sequence[slice]) -> list[Rows]:
        rows: list[Rows] = []
        for chunk in chunks:
            target, (room, spare) = Target.of(label, chunk), self._chunk_room(1, chunk)
            part = [rows_of(logits, target, spare[0]) for logits in self._logits(levels, chunk, room)]
            rows = [row.joined(more) for row, more in zip(rows, part, strict=True)] if rows else part
        return rows

    def _chunk_gradients(
        self,
        levels: range,
        label: Tensor,
        scale: Scale,
        rows: Sequence[Rows],
        chunks: Sequence[slice],
        to: Gradients,
    ) -> None:
        smoothing = self.options.label_smoothing
        for chunk in chunks:
            target, (room, errors) = Target.of(label, chunk), self._chunk_room(len(levels), chunk)
            for logits, row, out in zip(self._logits(levels, chunk, room), rows, errors, strict=True):
                chunk_errors(logits, target, row.log_sum, smoothing, self.classes, out)
            weights, buffers = self._part(self.weights, chunk), to.of_classes(chunk, self.classes)
            self.products.gradients(levels, errors, scale, self.z, weights, buffers)

    def _logits(self, levels: range, chunk: slice, room: Tensor) -> Iterator[Tensor]:
        """Yield the logits of size after size, all in `room`."""
        weights, biases = self._part(self.weights, chunk), self._part(self.biases, chunk)
        return self.products.logits(levels, self.z, weights, biases, self.options.dims, room)

    def _part(self, tensors: list[Tensor], chunk: slice) -> list[Tensor]:
        whole = chunk.stop - chunk.start == self.classes
        return tensors if whole else [tensor[chunk] for tensor in tensors]

    def _chunk_room(self, levels: int, chunk: slice) -> tuple[Tensor, Tensor]:
        return self._room(levels, len(self.z), chunk.stop - chunk.start)

    def _room(self, levels: int, samples: int, classes: int) -> tuple[Tensor, Tensor]:
        """Return room for the logits of one size (B, c) and for the errors of all (levels, B, c).

        On a CPU it is the thread's own and only valid until the next call.
        """
        shape = (levels + 1, samples, classes)
        if self.z.device.type != "cpu":
            whole = torch.empty(shape, dtype=self.sums, device=self.z.device)
            return whole[0], whole[1:]
        size, name = math.prod(shape), str(self.sums)
        room: Tensor | None = getattr(_own, name, None)
        if room is None or len(room) < size:
            setattr(_own, name, None)  # freed before the new one is there
            room = torch.empty(size, dtype=self.sums)
            setattr(_own, name, room)
        whole = room[:size].view(shape)
        return whole[0], whole[1:]

    def _rows_at_once(self, levels: int) -> int:
        """Return how many samples' logits and errors may exist as a whole."""
        least, most = ROOM_BYTES["cpu" if self.z.device.type == "cpu" else "cuda"]
        row = self.classes * self.sums.itemsize
        return min(most, max(least, 2 * len(self.z) * row)) // ((levels + 1) * row)

    def _chunks(self, levels: int) -> list[slice]:
        budget = CHUNK_BYTES["cpu" if self.z.device.type == "cpu" else "cuda"]
        step = max(1, budget // ((levels + 1) * len(self.z) * self.sums.itemsize))
        return [slice(low, min(low + step, self.classes)) for low in range(0, self.classes, step)]


def release_room() -> None:
    """Give back the memory that this thread keeps for its next pass on the CPU."""
    vars(_own).clear()
