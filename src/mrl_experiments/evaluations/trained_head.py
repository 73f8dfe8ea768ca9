"""Linear classification by the heads that a run was trained with."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import head_scores
from mrl_experiments.results import Measurement, measured
from mrl_experiments.trained_heads import candidates, head_costs, trained_heads


def trained_head(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, present_classes_only: bool
) -> Iterator[Measurement]:
    """Yield the accuracy of the heads at each dim that has one (Figure 2, Tables 1 and 17).

    top1, top5: samples whose class is among the 1, 5 largest logits / N; a tie counts against it. nll: mean
    of -log p(class), in nats. macs: multiply-adds of the head per prediction; network_macs: of the whole
    network with it, where the embeddings say what they took.

    Args:
        present_classes_only: Compare only logits of classes that occur in `queries`, as the paper does where
            a data set has 200 of the 1,000 classes (ImageNet-A and -R).

    Raises:
        UserError: Without heads, without one at any of `dims`, or when labels exceed their classes.
    """
    del database
    heads = trained_heads(queries, dims)
    classes = candidates(queries, heads, present_classes_only)
    compared, labels = heads.of_classes(classes), np.searchsorted(classes, queries.labels)
    for dim in tracked(filter(heads.serves, dims), "classifying", len(dims)):
        values = head_scores(compared, queries.features, labels, dim) | head_costs(queries, heads, dim)
        yield from measured(dim, values)
