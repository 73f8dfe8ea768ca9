"""The classifiers of all sizes in one pass: logits, errors and gradients, in bounded memory."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mrl_experiments.losses import levels_at_once
from mrl_experiments.losses.prefix_products import Gradients, Matrices, Operands, Separate, Tied
from mrl_experiments.losses.room import room
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
        self.weights = [w if w.dtype == z.dtype else w.to(z.dtype) for w in weights]
        self.biases = list(biases)
        self.classes = len(self.weights[0])
        self.sums = torch.promote_types(z.dtype, torch.float32)
        self.products = Tied if tied else Separate
        self.groups = self.products.groups(len(dims))

    def gradients_to(self, wanted: Sequence[bool]) -> Gradients:
        """Return buffers for the gradients of z and the parameters, of those that are `wanted`."""
        z, *others = (
            torch.empty_like(tensor, dtype=self.sums) if want else None
            for tensor, want in itertools.zip_longest((self.z, *self.weights, *self.biases), wanted)
        )
        for buffer in (z, *others):
            if buffer is not None and buffer.ndim == 2 and buffer.shape[1] > self.dims[-1]:
                buffer[:, self.dims[-1] :] = 0
        count = len(self.weights)
        return Gradients(z, others[:count], others[count:], self.dims)

    def outcome_and_gradients(self, label: Tensor, factors: Tensor, to: Gradients) -> Outcome:
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
        count, step = len(self.z), self._rows_at_once()
        if step < min(count, LEAST_ROWS):
            return self._class_by_class(label, factors, to)
        found = Found.empty(len(self.dims), count, self.sums, self.z.device)
        if step >= count:
            shifted = self._all_classes(self.z, label, factors, to, found)
        else:
            shifted = False
            for low in range(0, count, step):
                rows = slice(low, min(low + step, count))
                some = self.z[rows], label[rows], factors[:, rows], to.of_rows(rows)
                shifted |= self._all_classes(*some, found.of_rows(rows))
        return found.outcome(smoothed=bool(self.smoothing), shifted=shifted)

    def _fits_at_once(self) -> bool:
        """Whether all sizes' logits may exist together, and their number of kernels is what counts."""
        size = len(self.dims) * len(self.z) * self.classes * self.sums.itemsize
        return at_once(self.z.device) and size <= ROOM_BYTES["cuda"][1]

    def _all_classes(
        self,
        z: Tensor,
        label: Tensor,
        factors: Tensor,
        to: Gradients,
        found: Found,
    ) -> bool:
        """Do so for some samples, whose logits exist as a whole; tell whether any had to be shifted."""
        products, place = self._products(slice(0, self.classes), z, to), label[:, None]
        found_of, factors_of, wanted = found.levels, factors.unbind(), to.wanted

        def find(levels: range, *, shifted: bool) -> None:
            logits, errors = products.logits(levels), products.room.errors
            for level, out, values in zip(logits, errors, found_of[levels.start : levels.stop], strict=True):
                errors_of(level, place, self.smoothing, out, values, shifted=shifted)

        always = shifted = at_once(z.device)  # where choosing by the values would have to wait for them
        for levels in self.groups:
            find(levels, shifted=always)
            if not (always or found.in_range(levels)):
                find(levels, shifted=True)
                shifted = True
            if wanted:
                products.gradients(levels, [factors_of[level] / found_of[level][2] for level in levels])
        return shifted

    def _class_by_class(self, label: Tensor, factors: Tensor, to: Gradients) -> Outcome:
        """Do so for all samples, a chunk of the classes at a time: logits are made twice."""
        rows = self._rows(label)
        if to.wanted:
            self._chunk_gradients(label, factors, rows, to)
        outcomes = [row.outcome(self.classes) for row in rows]
        return Outcome(*map(torch.stack, zip(*outcomes, strict=True)))

    def _rows(self, label: Tensor) -> list[Rows]:
        """Return what is known of each size's rows once all classes are in."""
        rows: dict[int, Rows] = {}
        for chunk in self._chunks():
            target, products = Target.of(label, chunk), self._products(chunk, self.z, self.gradients_to(()))
            for levels in self.groups:
                for level, logits in zip(levels, products.logits(levels), strict=True):
                    part = rows_of(logits, target, products.room.errors[0])
                    rows[level] = rows[level].joined(part) if level in rows else part
        return [rows[level] for level in range(len(self.dims))]

    def _chunk_gradients(self, label: Tensor, factors: Tensor, rows: Sequence[Rows], to: Gradients) -> None:
        factors_of = factors.unbind()
        for chunk in self._chunks():
            target = Target.of(label, chunk)
            products = self._products(chunk, self.z, to.of_classes(chunk, self.classes))
            for levels in self.groups:
                errors = products.room.errors
                for level, logits, out in zip(levels, products.logits(levels), errors, strict=True):
                    chunk_errors(logits, target, rows[level].log_sum, self.smoothing, self.classes, out)
                products.gradients(levels, [factors_of[level] for level in levels])

    def _products(self, chunk: slice, z: Tensor, to: Gradients) -> Separate | Tied:
        """Return the products of some samples with a chunk of the classes, with room for them."""
        shape = self._matrices(), len(z), chunk.stop - chunk.start
        weights, biases = self._part(self.weights, chunk), self._part(self.biases, chunk)
        operands = Operands(z, weights, biases, self.dims)
        return self.products(operands, room(shape, self.sums, z.device, Matrices), to)

    def _matrices(self) -> int:
        """Return how many `Matrices` hold logits and errors of the sizes that share products."""
        levels = len(self.groups[0])
        return levels if levels == 1 else levels + 1

    def _part(self, tensors: list[Tensor], chunk: slice) -> list[Tensor]:
        whole = chunk.stop - chunk.start == self.classes
        return tensors if whole else [tensor[chunk] for tensor in tensors]

    def _rows_at_once(self) -> int:
        """Return how many samples' logits and errors may exist as a whole."""
        least, most = ROOM_BYTES["cpu" if self.z.device.type == "cpu" else "cuda"]
        row = self.classes * self.sums.itemsize
        return min(most, max(least, 2 * len(self.z) * row)) // (self._matrices() * row)

    def _chunks(self) -> list[slice]:
        budget = CHUNK_BYTES["cpu" if self.z.device.type == "cpu" else "cuda"]
        step = max(1, budget // (self._matrices() * len(self.z) * self.sums.itemsize))
        return [slice(low, min(low + step, self.classes)) for low in range(0, self.classes, step)]
