"""The soft-max over the classes and what a loss needs of it, whole or in chunks of the classes.

B samples, c classes of a chunk. Each function writes to `out` (B, c); the logits (B, c) stay as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Outcome(NamedTuple):
    """What became of each sample (B,) at one size.

    log_own: log-probability of the label. correct: whether the label leads all others.
    mean_log: mean log-probability of all classes, or 0 where it was not asked for.
    """

    log_own: Tensor
    correct: Tensor
    mean_log: Tensor


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
        """Return the outcome once all classes are in."""
        return Outcome(self.own - self.log_sum, self.own > self.rival, self.total / classes - self.log_sum)


class Target(NamedTuple):
    """Where the labels are in a chunk's rows: place (B, 1), and whether they are inside (B, 1)."""

    place: Tensor
    inside: Tensor

    @classmethod
    def of(cls, label: Tensor, chunk: slice) -> "Target":
        """Return the place of labels, counted from the first of all classes, in a chunk of the classes."""
        place = (label - chunk.start).clamp(0, chunk.stop - chunk.start - 1)
        return cls(place[:, None], (place + chunk.start == label)[:, None])


def errors_of(logits: Tensor, label: Tensor, smoothing: float, out: Tensor) -> Outcome:
    """Write soft-max minus target, the derivative of the loss by the logits of all classes.

    The label's probability less 1 is never above another's probability, so one look at the errors finds the
    label's rival.
    """
    place = label[:, None]
    torch.softmax(logits, 1, out=out)
    own = out.gather(1, place)
    out.scatter_(1, place, own - 1)
    rival = out.amax(1, keepdim=True)
    log_own, mean_log = own.log(), torch.zeros_like(own)
    # Below the smallest normal number a probability has lost digits. A GPU would have to wait for the answer.
    if smoothing or own.is_cuda or own.amin() < torch.finfo(own.dtype).tiny:
        log_sum = logits.amax(1, keepdim=True) - torch.maximum(own, rival).log()
        log_own, mean_log = logits.gather(1, place) - log_sum, logits.mean(1, keepdim=True) - log_sum
    if smoothing:
        out.scatter_(1, place, own - (1 - smoothing)).sub_(smoothing / logits.shape[1])
    return Outcome(log_own[:, 0], (own > rival)[:, 0], mean_log[:, 0])


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
