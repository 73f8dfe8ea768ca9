"""Top-k hits, negative log-likelihood and bits per byte of a classifier's logits."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.nested_accuracy import label_rank

BLOCK = 2048  # samples; their logits of 2,048 classes then stay near the processor (16 MB)


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (B, 3) for logits (B, C) and labels (B,): top-1 and top-5 hit, negative log-likelihood.

    Raises:
        UserError: For logits without a finite softmax.
    """
    table, index = torch.from_numpy(logits), torch.from_numpy(labels)
    label_logits = table.gather(1, index[:, None])[:, 0]
    nll = (table.logsumexp(dim=1).double() - label_logits).numpy()
    check_logits(nll)
    rank = label_rank(table, index).numpy()
    return np.stack([rank < 1, rank < 5, nll], axis=1)


def head_scores(
    heads: Heads, features: NDArray[np.float32], labels: NDArray[np.int64], dim: int
) -> dict[str, float]:
    """Return the means of `scores` for the classifier of one dim, as top1, top5 and nll.

    Args:
        heads: The classifiers.
        features: (N, D).
        labels: (N,) below their classes.
        dim: Which classifier.

    Raises:
        UserError: For logits without a finite softmax.
    """
    sums = np.zeros(3)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        sums += scores(heads.logits(features[rows], dim), labels[rows]).sum(axis=0)
    return dict(zip(("top1", "top5", "nll"), (sums / len(features)).tolist(), strict=True))


def check_logits(values: NDArray[np.floating[Any]]) -> None:
    """Raise UserError where logits, or what is made of them, (B,) or (B, C), are not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{bad.sum()} of {len(bad)} samples have logits that are NaN or beyond float32",
            expected="features and classifiers whose products are finite",
            remedy="scale the features down, or lower the learning rate that the classifier was trained with",
        )


def bits_per_byte(nll: float, tokens: int, text_bytes: int) -> float:
    """Return the bits that a byte of text takes, given the mean nll of its tokens in nats."""
    return nll * tokens / math.log(2) / text_bytes


def bytes_of_text(meta: Mapping[str, Any]) -> int | None:
    """Return the bytes of text that embedded tokens stand for, None where tokens were hidden.

    Raises:
        UserError: If no text was embedded.
    """
    if meta.get("masked"):
        return None
    if not meta.get("bytes"):
        raise UserError(
            f"{meta.get('dataset', 'these embeddings')}: these are not the tokens of a text",
            expected="embeddings of a language model, such as model=gpt_small data=python_stdlib",
            remedy="evaluation=trained_head for classes of another kind",
        )
    return int(meta["bytes"])
