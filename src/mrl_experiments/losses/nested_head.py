"""The classifiers of all sizes in one pass: logits, errors and gradients, in bounded memory."""

import itertools
import math
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mrl_experiments.losses import levels_at_once
from mrl_experiments.losses.prefix_products import Gradients, Separate, Tied
from mrl_experiments.losses.softmax_rows import (
    Found,
    Outcome,
    Rows,
    Target,
    chunk_errors,
    errors_of,
    rows_of,
)

# Logits and errors exist for as many samples at a time as fit twice the logits of one plain head, within
# these bounds; where these are fewer than LEAST_ROWS, they exist for some of the classes at a time.
ROOM_BYTES = {"cpu": (1 << 24, 1 << 28), "cuda": (1 << 27, 1 << 28)}  # at least, at most
LEAST_ROWS = 64  # with each chunk of samples all gradients of weights are read and written
CHUNK_BYTES = {"cpu": 1 << 24, "cuda": 1 << 27}  # of classes: fits a CPU's cache, keeps a GPU busy
AT_ONCE = {"cuda"}  # devices on which the number of kernels, not the cache, decides what all sizes cost
_own = threading.local()  # a thread's room for logits on the CPU: fresh memory costs a page fault every 4 KiB


def at_once(device: torch.device) -> bool:
    """Whether all sizes had better go through each step together."""
    return device.type in AT_ONCE


class NestedHead:
    """The classifiers of all sizes over some samples, by chunks of samples or classes to save memory.

    z: (B, D) in the precision of the products. weights: one a size, or a tied one, cast to that precision.
    biases: as many, or none. smoothing: of the labels. `sums` is the type of logits, errors and gradients.
    """

    def __init__(
        self,
        z: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dims: tuple[int, ...],
        *,
        tied: bool,
        smoothing: float,
    ) -> None:
        self.z, self.dims, self.tied, self.smoothing = z, dims, tied, smoothing
        self.weights = [weight.to(z.dtype) for weight in weights]
        self.biases = list(biases)
        self.classes = len(self.weights[0])
        self.sums = torch.promote_types(z.dtype, torch.float32)
        self.products = Tied if tied else Separate

    def gradients_to(self, wanted: Sequence[bool]) -> Gradients:
        """Return buffers for the gradients of z and the parameters where `wanted`."""
        z, *others = (
            torch.empty_like(tensor, dtype=self.sums) if want else None
            for tensor, want in zip((self.z, *self.weights, *self.biases), wanted, strict=True)
        )
        for buffer in (z, *others):
            if buffer is not None and buffer.ndim == 2 and buffer.shape[1] > self.dims[-1]:
                buffer[:, self.dims[-1] :] = 0
        count = len(self.weights)
        return Gradients(z, others[:count], others[count:], self.dims)

    def outcome_and_gradients(self, label: Tensor, factors: Tensor, to: Gradients | None) -> Outcome:
        """Tell what became of the samples at all sizes, and add the gradients to `to`.

        factors: (L, B, 1) what the derivatives by the logits are multiplied by to become those of the loss.
        """
        if self._fits_at_once():
            return levels_at_once.outcome_and_gradients(
                self.z,
                self.weights,
                self.biases,
                self.dims,
                label,
                self.smoothing,
                factors,
                to,
                tied=self.tied,
            )
        groups, count = self.products.groups(len(self.dims)), len(self.z)
        step = self._rows_at_once(len(groups[0]))
        if step < min(count, LEAST_ROWS):
            rows = [self._class_by_class(levels, label, factors, to) for levels in groups]
            outcomes = [row.outcome(self.classes) for row in itertools.chain(*reversed(rows))]
            return Outcome(*map(torch.stack, zip(*outcomes, strict=True)))
        room = self._room(len(groups[0]), min(step, count), self.classes)
        found = Found.empty(len(self.dims), count, room[0])
        for levels in groups:
            self._rows_by_rows(levels, label, factors, to, room, found.of_levels(levels))
        return found.outcome(smoothed=bool(self.smoothing))

    def _fits_at_once(self) -> bool:
        """Whether all sizes' logits may exist together, and their number of kernels is what counts."""
        size = len(self.dims) * len(self.z) * self.classes * self.sums.itemsize
        return at_once(self.z.device) and size <= ROOM_BYTES["cuda"][1]

    def _rows_by_rows(
        self,
        levels: range,
        label: Tensor,
        factors: Tensor,
        to: Gradients | None,
        room: tuple[Tensor, Tensor],
        found: Found,
    ) -> None:
        """Do so for sizes that share their products, as many samples at a time as fit into `room`."""
        step, count = len(room[0]), len(self.z)
        if step == count:
            return self._all_classes(levels, self.z, label, factors, to, *room, found)
        for low in range(0, count, step):
            rows = slice(low, min(low + step, count))
            some = self.z[rows], label[rows], factors[:, rows], None if to is None else to.of_rows(rows)
            space = room[0][: rows.stop - low], room[1][:, : rows.stop - low]
            self._all_classes(levels, *some, *space, found.of_rows(rows))

    def _all_classes(
        self,
        levels: range,
        z: Tensor,
        label: Tensor,
        factors: Tensor,
        to: Gradients | None,
        room: Tensor,
        errors: Tensor,
        found: Found,
    ) -> None:
        """Do so for some of the samples, whose logits exist as a whole."""

        def find(*, shifted: bool) -> None:
            logits = self.products.logits(levels, z, self.weights, self.biases, self.dims, room)
            for level, out, values in zip(logits, errors.unbind(), found.values.unbind(), strict=True):
                errors_of(level, label, self.smoothing, out, values, shifted=shifted)

        if at_once(z.device):  # which would have to wait for the values to choose by
            find(shifted=True)
        else:
            find(shifted=False)
            if not found.in_range():
                find(shifted=True)
        if to is not None:
            scales = factors[levels.start : levels.stop] / found.values[:, 2]
            self.products.gradients(levels, errors, scales.unbind(), z, self.weights, to)

    def _class_by_class(
        self, levels: range, label: Tensor, factors: Tensor, to: Gradients | None
    ) -> list[Rows]:
        """Do so for all samples of such sizes, a chunk of the classes at a time: logits are made twice."""
        chunks = self._chunks(len(levels))
        rows = self._rows(levels, label, chunks)
        if to is not None:
            self._chunk_gradients(levels, label, factors, rows, chunks, to)
        return rows

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
        factors: Tensor,
        rows: Sequence[Rows],
        chunks: Sequence[slice],
        to: Gradients,
    ) -> None:
        scales = [factors[level] for level in levels]
        for chunk in chunks:
            target, (room, errors) = Target.of(label, chunk), self._chunk_room(len(levels), chunk)
            for logits, row, out in zip(self._logits(levels, chunk, room), rows, errors, strict=True):
                chunk_errors(logits, target, row.log_sum, self.smoothing, self.classes, out)
            weights, buffers = self._part(self.weights, chunk), to.of_classes(chunk, self.classes)
            self.products.gradients(levels, errors, scales, self.z, weights, buffers)

    def _logits(self, levels: range, chunk: slice, room: Tensor) -> Iterator[Tensor]:
        """Yield the logits of size after size, all in `room`."""
        weights, biases = self._part(self.weights, chunk), self._part(self.biases, chunk)
        return self.products.logits(levels, self.z, weights, biases, self.dims, room)

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
