"""The soft-max over the classes, in place and in chunks of the classes. B samples, c classes of a chunk."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What a loss needs of each row (B,) of the logits of one size.

    own: the label's logit. rival: the highest other one. log_sum: log of the sum of exponentials.
    total: sum of the logits, or 0 where it was not asked for.
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


class Target(NamedTuple):
    """Where the labels are in a chunk's rows: place (B, 1), inside (B, 1), which is None if all are."""

    place: Tensor
    inside: Tensor | None

    @classmethod
    def of(cls, label: Tensor, chunk: slice, classes: int) -> "Target":
        """Return the place of labels, counted from the first of all classes, in a chunk of the classes."""
        if chunk.stop - chunk.start == classes:
            return cls(label[:, None], None)
        place = (label - chunk.start).clamp(0, chunk.stop - chunk.start - 1)
        return cls(place[:, None], (place + chunk.start == label)[:, None])


def softmax_(logits: Tensor, target: Target, *, with_total: bool) -> Rows:
    """Turn a chunk's logits (B, c) of one size into their soft-max, in place, and describe each row."""
    place, inside = target
    total = logits.sum(1) if with_total else logits.new_zeros(len(logits))
    own = value = logits.gather(1, place)
    if inside is None:
        logits.scatter_(1, place, -torch.inf)
    else:
        own = value.masked_fill(~inside, -torch.inf)
        logits.scatter_(1, place, value.masked_fill(inside, -torch.inf))
    rival = logits.amax(1)
    logits.scatter_(1, place, value)
    top = torch.maximum(own[:, 0], rival)
    torch.softmax(logits, 1, out=logits)
    log_sum = top - logits.amax(1).log_()  # the largest probability is exp(top - log_sum), never tiny
    return Rows(own[:, 0], rival, log_sum, total)


def subtract_target_(probabilities: Tensor, target: Target, own: float, other: float) -> None:
    """Subtract the target distribution: `own` at the label and `other` everywhere.

    The derivative of a row's cross-entropy by its logits is soft-max minus target.
    """
    place, inside = target
    if inside is None:
        probabilities.scatter_(1, place, -own, reduce="add")
    else:
        probabilities.scatter_add_(1, place, inside.to(probabilities.dtype) * -own)
    if other:
        probabilities.sub_(other)
