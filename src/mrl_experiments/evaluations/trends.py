"""Per-class trends: how the accuracy of single classes changes with the dim of the representation."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.exits import read_exits
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.results import Measurement
from mrl_experiments.trained_heads import classifier_dims, trained_heads

TRENDS = ("up", "up_then_dip", "down_then_up", "none", "flat")
Accuracies = NDArray[np.float64]


def trends(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, quantiles: Sequence[int]
) -> Iterator[Measurement]:
    """Yield how many classes follow each trend over the dims, and the spread of classes (Figure 12).

    classes at trend=<name>: classes of `queries` with that trend, see `trend`; `dim` is the largest.
    class_gap at quantile=q: the q-th percentile over classes of (accuracy at this dim - at the largest).
    Source: Appendix J of the paper.

    Raises:
        UserError: Without heads or with fewer than three dims.
    """
    del database
    heads = trained_heads(queries, dims)
    nested = classifier_dims(queries, heads, dims)
    if len(nested) < 3:
        raise UserError(
            f"{len(nested)} dims {nested} show no trend",
            expected="classifiers at three or more dims",
            remedy="choose a run with nested heads, such as loss=mrl",
        )
    right = read_exits(queries.features, heads, nested).correct(queries.labels)
    _, class_index, counts = np.unique(queries.labels, return_inverse=True, return_counts=True)
    by_class = np.stack([np.bincount(class_index, weights=hits) / counts for hits in right])
    found = Counter(map(trend, by_class.T))
    for name in TRENDS:
        yield Measurement(nested[-1], "classes", float(found[name]), {"trend": name})
    for dim, gaps in zip(nested, by_class - by_class[-1], strict=True):
        for quantile in quantiles:
            value = np.percentile(gaps, quantile)
            yield Measurement(dim, "class_gap", float(value), {"quantile": quantile})


def trend(accuracies: Accuracies) -> str:
    """Name the trend of one class's accuracies (L,) over ascending dims.

    up: they never fall, and rise. up_then_dip: they rise to a peak, then fall by less than they rose.
    down_then_up: they fall, then only rise. flat: all are equal. none: anything else.
    The paper counts the first three for its nine dims without saying how; this rule is ours.
    """
    steps = np.diff(accuracies)
    moves = np.sign(steps[steps != 0])
    turns = np.flatnonzero(np.diff(moves))
    if not len(moves):
        return "flat"
    if not len(turns):
        return "up" if moves[0] > 0 else "none"
    if len(turns) > 1:
        return "none"
    if moves[0] < 0:
        return "down_then_up"
    return "up_then_dip" if accuracies[-1] > accuracies[0] else "none"
