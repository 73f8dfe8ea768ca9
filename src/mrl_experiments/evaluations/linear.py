"""Linear classification by a run's own heads."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments import cost
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.own_heads import candidates, own_heads
from mrl_experiments.results import Measurement

BLOCK = 8192


def linear(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, present_classes_only: bool
) -> Iterator[Measurement]:
    """Yield the accuracy of the heads at each size that has one (Figure 2, Tables 1 and 17).

    top1, top5: samples whose class is among the 1, 5 largest logits / N; equal logits: the lower class leads.
    nll: mean of -log p(class), in nats. macs: multiply-adds of the head per prediction; network_macs: of the
    whole network with it, where the embeddings say what they took.
    present_classes_only: compare only logits of classes that occur in `queries`, as the paper does where a
    data set has 200 of the 1,000 classes (ImageNet-A and -R).
    Raises UserError without heads, without one at any of `dims`, or when labels exceed their classes.
    """
    del database
    heads = own_heads(queries, dims)
    classes = candidates(queries, heads, present_classes_only)
    labels = np.searchsorted(classes, queries.labels)
    for dim in filter(heads.serves, dims):
        sums = np.zeros(3)
        for start in range(0, len(queries), BLOCK):
            logits = heads.logits(queries.features[start : start + BLOCK], dim)[:, classes]
            sums += scores(logits, labels[start : start + BLOCK]).sum(axis=0)
        for metric, value in zip(("top1", "top5", "nll"), sums / len(queries), strict=True):
            yield Measurement(dim, metric, float(value))
        macs = cost.head_macs(dim, heads.classes)
        yield Measurement(dim, "macs", macs)
        if "macs" in queries.meta:
            yield Measurement(dim, "network_macs", queries.meta["macs"] + macs)


def scores(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (B, 3) for logits (B, C) and labels (B,): top-1 and top-5 hit, negative log-likelihood.

    Raises UserError for logits without a finite soft-max.
    """
    rank = rank_of_own(logits, labels)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    nll = torch.from_numpy(logits).logsumexp(dim=1).double().numpy() - own[:, 0]
    check_logits(nll)
    return np.stack([rank < 1, rank < 5, nll], axis=1)


def check_logits(values: NDArray[np.floating[Any]]) -> None:
    """Raise UserError where logits, or what is made of them, (B,) or (B, C), are not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise UserError(
            f"{bad.sum()} of {len(bad)} samples have logits that are NaN or beyond float32",
            expected="features and classifiers whose products are finite",
            remedy="scale the features down, or lower the learning rate that the classifier was trained with",
        )


def rank_of_own(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (B,): how many classes lead that of the label, for logits (B, C); of equals the lower leads."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = np.count_nonzero(logits > own, axis=1)
    tied = np.flatnonzero(np.count_nonzero(logits == own, axis=1) > 1)  # few, if any
    lower = np.arange(logits.shape[1]) < labels[tied, None]
    ahead[tied] += np.count_nonzero((logits[tied] == own[tied]) & lower, axis=1)
    return ahead
