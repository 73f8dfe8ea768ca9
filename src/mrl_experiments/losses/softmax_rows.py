"""The soft-max over the classes and what a loss needs of it, whole or in chunks of the classes.

L sizes, B samples, C classes, c of a chunk. Each function writes to `out`, which may be the logits of one
size, (B, C) or (B, c), and otherwise leaves these as they are. Logits, and logarithms of sums, are in base 2:
the power of 2 is PyTorch's own kernel, the natural exponential is MKL's, which AMD's CPUs run at a third of
its pace.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrl_experiments.losses.room import room

LN2 = math.log(2)


class Outcome(NamedTuple):
    """What became of each sample at all sizes, (L, B) each.

    log_own: log-probability of the label, a natural one again. correct: whether the label leads all others.
    mean_log: mean log-probability of all classes, or log_own again where it was not asked for.
    """

    log_own: Tensor
    correct: Tensor
    mean_log: Tensor


class Rows(NamedTuple):
    """What is known of each row (B,) of the logits after some of the classes.

    own: the label's logit. rival: the highest other one. log_sum: log of the sum of powers of 2.
    total: sum of the logits.
    """

    own: Tensor
    rival: Tensor
    log_sum: Tensor
    total: Tensor

    def joined(self, other: "Rows") -> "Rows":
        """Return the rows over these classes and those of another chunk."""
        return Rows(
            torch.maximum(self.own, other.own),
            torch.maximum(self.rival, other.rival),
            torch.logaddexp2(self.log_sum, other.log_sum),
            self.total + other.total,
        )

    def outcome(self, classes: int) -> Outcome:
        """Return the outcome of this size (B,) once all classes are in."""
        log_own, mean_log = self.own - self.log_sum, self.total / classes - self.log_sum
        return Outcome(log_own * LN2, self.own > self.rival, mean_log * LN2)


class Target(NamedTuple):
    """Where the labels are in a chunk's rows: place (B, 1), and whether they are inside (B, 1)."""

    place: Tensor
    inside: Tensor

    @classmethod
    def of(cls, label: Tensor, chunk: slice) -> "Target":
        """Return the place of labels, counted from the first of all classes, in a chunk of the classes."""
        place = (label - chunk.start).clamp(0, chunk.stop - chunk.start - 1)
        return cls(place[:, None], (place + chunk.start == label)[:, None])


class Found:
    """What is known of the rows of some sizes once all classes are in: `values` (L, 5, B, 1).

    The five are height, the label's logit; own, sums and rival, the powers of 2 of the label's logit, of all
    in sum and of the highest other one; mean, the mean logit, where smoothing asks for it. Of each row's
    logits its highest may have been subtracted; where it was not, height is NaN, since own tells it.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.levels = [level.unbind() for level in values.unbind()]
        self._columns = values.squeeze(3).unbind(1)
        self._bounds: dict[range, Tensor] = {}
        numbers = torch.finfo(values.dtype)
        self._least, self._most = numbers.tiny**0.8, numbers.max**0.8

    @classmethod
    def empty(cls, levels: int, samples: int, dtype: torch.dtype, device: torch.device) -> "Found":
        """Return room for what is known, until the next call."""
        found = room((levels, 5, samples, 1), dtype, device, cls)
        found._columns[0].fill_(torch.nan)
        return found

    def of_rows(self, rows: slice) -> "Found":
        """Return the room of some samples."""
        return Found(self.values[:, :, rows])

    def in_range(self, levels: range) -> bool:
        """Whether no label's power of 2 is so small, nor a sum so large, that digits were lost, or all."""
        bounds = self._bounds.get(levels)
        if bounds is None:
            bounds = self._bounds[levels] = self.values[levels.start : levels.stop, 1:3]
        if not bounds.numel():
            return True
        least, most = torch.aminmax(bounds)
        return least.item() > self._least and most.item() < self._most  # False for NaN

    def outcome(self, *, smoothed: bool, shifted: bool) -> Outcome:
        """Return what became of the samples; shifted: whether heights are known of some."""
        height, own, sums, rival, mean = self._columns
        correct = own > rival
        if not (smoothed or shifted):
            log_own = (own / sums).log_()
            return Outcome(log_own, correct, log_own)
        log_sum = sums.log2()
        log_own = torch.where(height.isnan(), own.log2(), height).sub_(log_sum).mul_(LN2)
        return Outcome(log_own, correct, (mean - log_sum).mul_(LN2) if smoothed else log_own)


def errors_of(
    logits: Tensor, place: Tensor, smoothing: float, out: Tensor, found: Sequence[Tensor], *, shifted: bool
) -> None:
    """Write soft-max minus target, the derivative by natural logits, times each row's sum of powers of 2.

    place: (B, 1) the labels. found: the five values (B, 1) of `Found`, written too.
    shifted: whether the highest logit of each row is subtracted first, as a soft-max does. The powers of 2
    of the logits as they are cost half a soft-max, but hold only where what is found is `in_range`.
    """
    height, own, sums, rival, mean = found
    if smoothing:
        torch.mean(logits, 1, keepdim=True, out=mean)
    if shifted:
        torch.gather(logits, 1, place, out=height)
        torch.amax(logits, 1, keepdim=True, out=rival)
        torch.sub(logits, rival, out=out).exp2_()
        height.sub_(rival)
        mean.sub_(rival)
    else:
        torch.exp2(logits, out=out)
    torch.gather(out, 1, place, out=own)
    torch.sum(out, 1, keepdim=True, out=sums)
    target = own - sums  # at most 0, hence below all others
    torch.amax(out.scatter_(1, place, target), 1, keepdim=True, out=rival)
    if smoothing:
        out.scatter_(1, place, target.add_(sums, alpha=smoothing)).sub_(sums * (smoothing / out.shape[1]))


def rows_of(logits: Tensor, target: Target, out: Tensor) -> Rows:
    """Describe the rows of a chunk's logits; `out` is used up."""
    place, inside = target
    value = logits.gather(1, place)
    logits.scatter_(1, place, value.masked_fill(inside, -torch.inf))
    rival = logits.amax(1)
    logits.scatter_(1, place, value)
    own, total = value.masked_fill(~inside, -torch.inf)[:, 0], logits.sum(1)
    top = torch.maximum(own, rival)
    log_sum = torch.sub(logits, top[:, None], out=out).exp2_().sum(1).log2_().add_(top)
    return Rows(own, rival, log_sum, total)


def chunk_errors(
    logits: Tensor, target: Target, log_sum: Tensor, smoothing: float, classes: int, out: Tensor
) -> None:
    """Write soft-max minus target for a chunk, given each row's log_sum (B,) over all `classes`."""
    place, inside = target
    torch.sub(logits, log_sum[:, None], out=out).exp2_()
    out.scatter_add_(1, place, inside.to(out.dtype) * (smoothing - 1))
    if smoothing:
        out.sub_(smoothing / classes)
