"""Top-k accuracy at all nested sizes in one vectorised pass."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def nested_hits(logits: Tensor | Mapping[int, Tensor], labels: Tensor, k: Sequence[int] = (1, 5)) -> Tensor:
    """Return (L, K): how many labels are among the k highest logits, for each of L sizes and K values of k.

    logits: (B, L, C), or {dim: (B, C)}. labels: (B,) int64.
    A tie counts against the label, so constant logits score nothing, and so do NaN ones.
    """
    if isinstance(logits, Mapping):
        return torch.cat([nested_hits(level[:, None], labels, k) for level in logits.values()])
    own = logits.gather(-1, labels[:, None, None].expand(-1, logits.shape[1], 1))
    rank = (logits >= own).sum(-1)  # 1 is the highest; 0 where the label's own logit is NaN
    return torch.stack([((rank >= 1) & (rank <= limit)).sum(0) for limit in k], dim=1)
