"""The soft-max over the classes, in place and in chunks of the classes.

L sizes, B samples, c classes of a chunk. `label` (B,) counts from the chunk's first class and may lie
outside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What a loss needs of each row of logits: (B,) for one size, (L, B) for all.

    own: the label's logit. rival: the highest other one. log_sum: log of the sum of exponentials.
    total: sum of the logits, or 0 where it was not asked for.
    """

    own: Tensor
    rival: Tensor
    log_sum: Tensor
    total: Tensor


def softmax_(logits: Tensor, label: Tensor, *, with_total: bool) -> Rows:
    """Turn a chunk's logits (B, c) of one size into their soft-max, in place, and describe each row."""
    index, inside = _index(logits, label)
    total = logits.sum(1) if with_total else logits.new_zeros(len(logits))
    value = logits.gather(1, index)
    own = value.masked_fill(~inside, -torch.inf)
    logits.scatter_(1, index, value.masked_fill(inside, -torch.inf))
    rival = logits.amax(1)
    logits.scatter_(1, index, value)
    top = torch.maximum(own[:, 0], rival)
    torch.softmax(logits, 1, out=logits)
    log_sum = top - logits.amax(1).log()  # the largest probability is exp(top - log_sum), never tiny
    return Rows(own[:, 0], rival, log_sum, total)


def merge(chunks: Sequence[Sequence[Rows]]) -> Rows:
    """Return the rows of all sizes over all classes, given those of each chunk and size."""
    stacked = [Rows(*(torch.stack(column) for column in zip(*levels, strict=True))) for levels in chunks]
    if len(stacked) == 1:
        return stacked[0]
    own, rival, log_sum, total = (torch.stack(column) for column in zip(*stacked, strict=True))
    return Rows(own.amax(0), rival.amax(0), log_sum.logsumexp(0), total.sum(0))


def subtract_target_(probabilities: Tensor, label: Tensor, own: float, other: float) -> Tensor:
    """Subtract the target distribution: `own` at the label and `other` everywhere; return the derivative.

    The derivative of a row's cross-entropy by its logits is soft-max minus target.
    """
    index, inside = _index(probabilities, label)
    probabilities.scatter_add_(1, index, inside.to(probabilities.dtype) * -own)
    return probabilities.sub_(other) if other else probabilities


def _index(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's position in each row (B, 1), clamped, and whether it is in this chunk."""
    index = label.clamp(0, logits.shape[1] - 1)
    return index[:, None], (index == label)[:, None]
