"""Linear classification by the heads that a run was trained with."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments import cost
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.metrics.likelihood import scores
from mrl_experiments.results import Measurement
from mrl_experiments.trained_heads import candidates, trained_heads

BLOCK = 8192


def trained_head(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, present_classes_only: bool
) -> Iterator[Measurement]:
    """Yield the accuracy of the heads at each dim that has one (Figure 2, Tables 1 and 17).

    top1, top5: samples whose class is among the 1, 5 largest logits / N; a tie counts against it.
    nll: mean of -log p(class), in nats. macs: multiply-adds of the head per prediction; network_macs: of the
    whole network with it, where the embeddings say what they took.
    present_classes_only: compare only logits of classes that occur in `queries`, as the paper does where a
    data set has 200 of the 1,000 classes (ImageNet-A and -R).

    Raises:
        UserError: without heads, without one at any of `dims`, or when labels exceed their classes.
    """
    del database
    heads = trained_heads(queries, dims)
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
