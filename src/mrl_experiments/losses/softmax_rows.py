"""The soft-max over the classes and what a loss needs of it, whole or in chunks of the classes.

B samples, c classes of a chunk. Each function writes to `out` (B, c); the logits (B, c) stay as they are.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Outcome(NamedTuple):
    """What became of each sample at some sizes, (L, B) each.

    log_own: log-probability of the label. correct: whether the label leads all others.
    mean_log: mean log-probability of all classes, or log_own again where it was not asked for.
    """

    log_own: Tensor
    correct: Tensor
    mean_log: Tensor

    @classmethod
    def joined(cls, outcomes: Sequence["Outcome"]) -> "Outcome":
        """Return the outcomes of several groups of sizes as one."""
        return cls(*(torch.cat(column) for column in zip(*outcomes, strict=True)))


class Rows(NamedTuple):
    """What is known of each row (B,) of the logits after some of the classes.

    own: the label's logit. rival: the highest other one. log_sum: log of the sum of exponentials.
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
            torch.logaddexp(self.log_sum, other.log_sum),
            self.total + other.total,
        )

    def outcome(self, classes: int) -> Outcome:
        """Return the outcome of this one size once all classes are in."""
        log_own, mean_log = self.own - self.log_sum, self.total / classes - self.log_sum
        return Outcome(log_own[None], (self.own > self.rival)[None], mean_log[None])


class Target(NamedTuple):
    """Where the labels are in a chunk's rows: place (B, 1), and whether they are inside (B, 1)."""

    place: Tensor
    inside: Tensor

    @classmethod
    def of(cls, label: Tensor, chunk: slice) -> "Target":
        """Return the place of labels, counted from the first of all classes, in a chunk of the classes."""
        place = (label - chunk.start).clamp(0, chunk.stop - chunk.start - 1)
        return cls(place[:, None], (place + chunk.start == label)[:, None])


def errors_of(logits: Iterable[Tensor], label: Tensor, smoothing: float, out: Tensor, exact: bool) -> Outcome:
    """Write soft-max minus target, the derivative of each loss by the logits of all classes; out: (L, B, C).

    The label's probability less 1 is never above another's probability, so one look at the errors finds the
    label's rival. exact: take the log-probabilities from the logits, which smoothing needs, and which stay
    right where a probability lies below the smallest normal number.
    """
    place = label.expand(len(out), -1)[..., None]
    heights: list[tuple[Tensor, ...]] = []
    for level, probabilities in zip(logits, out, strict=True):
        torch.softmax(level, 1, out=probabilities)
        if exact:
            heights.append((level.gather(1, place[0])[:, 0], level.amax(1), level.mean(1)))
    own = out.gather(2, place)
    out.scatter_(2, place, own - 1)
    own, rival = own[..., 0], out.amax(2)
    if smoothing:
        out.scatter_(2, place, (own - (1 - smoothing))[..., None]).sub_(smoothing / out.shape[2])
    if not exact:
        log_own = own.log()
        return Outcome(log_own, own > rival, log_own)
    height, top, mean = (torch.stack(column) for column in zip(*heights, strict=True))
    log_sum = top - torch.maximum(own, rival).log()
    return Outcome(height - log_sum, own > rival, mean - log_sum)


def rows_of(logits: Tensor, target: Target, out: Tensor) -> Rows:
    """Describe the rows of a chunk's logits; `out` is used up."""
    place, inside = target
    value = logits.gather(1, place)
    logits.scatter_(1, place, value.masked_fill(inside, -torch.inf))
    rival = logits.amax(1)
    logits.scatter_(1, place, value)
    own = value.masked_fill(~inside, -torch.inf)[:, 0]
    torch.softmax(logits, 1, out=out)
    log_sum = torch.maximum(own, rival) - out.amax(1).log_()  # the largest probability is never tiny
    return Rows(own, rival, log_sum, logits.sum(1))


def chunk_errors(
    logits: Tensor, target: Target, log_sum: Tensor, smoothing: float, classes: int, out: Tensor
) -> None:
    """Write soft-max minus target for a chunk, given each row's log_sum (B,) over all `classes`."""
    place, inside = target
    torch.sub(logits, log_sum[:, None], out=out).exp_()
    out.scatter_add_(1, place, inside.to(out.dtype) * (smoothing - 1))
    if smoothing:
        out.sub_(smoothing / classes)
