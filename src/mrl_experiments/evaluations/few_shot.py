"""Few-shot classification: the nearest mean of n examples per class."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from mrl_experiments.directions import dtype_for
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.results import Measurement, mean_and_deviation
from mrl_experiments.search.class_means import nearest_means
from mrl_experiments.search.database import check_counts, labelled
from mrl_experiments.search.same_rows import same_rows

Rows = NDArray[np.int64]
CONFIDENCE = 0.95


def few_shot(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    shots: Sequence[int],
    ways: int | None,
    draws: int,
    seed: int,
) -> Iterator[Measurement]:
    """Yield the accuracy of nearest class means of n examples, averaged over random draws (Table 15).

    Examples come from `database`; where that is the split of the queries, those not drawn for the largest n
    are the queries of every n.

    top1: right / queries, mean over draws; top1_std: deviation over draws;
    top1_ci95: half the width of the mean's 95 % interval, by Student's t.

    Args:
        shots: The n, each the first of one draw.
        ways: None for all classes that occur in `queries`, or how many are drawn each time, with their
            queries alone.

    Raises:
        UserError: Without a database, and for more shots or ways than there are examples or classes.
    """
    check_counts("evaluation.shots", shots)
    task = _Task.of(queries, labelled(queries, database), max(shots), ways)
    if draws < 2:
        raise UserError(f"draws={draws}", expected="at least 2: an interval needs more than one draw")
    scores: dict[tuple[int, int], list[float]] = defaultdict(list)
    for draw in tracked(range(draws), "drawing examples", draws):
        random = np.random.default_rng((seed, draw))
        examples, asked, answers = task.draw(random)
        for count, sums in zip(sorted(shots), _sums(examples, sorted(shots), task.dtype), strict=True):
            for dim, predicted in nearest_means(asked, sums, dims).items():
                scores[dim, count].append(float((predicted == answers).mean()))
    for (dim, count), values in sorted(scores.items()):
        setting = {"shots": count} | ({"ways": ways} if ways else {})
        summary = mean_and_deviation("top1", values)
        half = t.ppf((1 + CONFIDENCE) / 2, draws - 1) * summary["top1_std"] / draws**0.5
        for metric, value in summary.items():
            yield Measurement(dim, metric, value, setting)
        yield Measurement(dim, "top1_ci95", float(half), setting)


def _sums(
    examples: NDArray[np.float32], shots: Sequence[int], dtype: type[np.floating[Any]]
) -> Iterator[NDArray[Any]]:
    """Yield the sums of the first n of examples (C, n, D) for each n, (C, D)."""
    for count in shots:
        yield examples[:, :count].sum(axis=1, dtype=dtype)


@dataclass(frozen=True)
class _Task:
    """What draws are taken from: C classes, and the rows of the database grouped by class.

    Attributes:
        class_index: (Q,) the class of each query, 0 to C - 1.
        grouped: Rows of the database, class by class.
        first: (C,) where each class begins in `grouped`.
        counts: (C,) how many rows each class has.
        dtype: Of the sums of examples.
    """

    queries: Embeddings
    database: Embeddings
    same: bool
    shots: int
    ways: int
    class_index: Rows
    grouped: Rows
    first: Rows
    counts: Rows
    dtype: type[np.floating[Any]]

    @classmethod
    def of(cls, queries: Embeddings, database: Embeddings, shots: int, ways: int | None) -> "_Task":
        same = same_rows(queries, database)
        classes, class_index = np.unique(queries.labels, return_inverse=True)
        order = np.argsort(database.labels, kind="stable")
        first, last = (np.searchsorted(database.labels[order], classes, side) for side in ("left", "right"))
        _check(classes, last - first, shots + same, ways)
        chosen = len(classes) if ways is None else ways
        dtype = dtype_for([database.width], database.features)
        return cls(queries, database, same, shots, chosen, class_index, order, first, last - first, dtype)

    def draw(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32], Rows]:
        """Draw examples (C, n, D), queries (Q, D), and the index of each query's class among the C (Q,)."""
        chosen = np.sort(random.permutation(len(self.counts))[: self.ways])
        rows = np.stack(
            [
                self.grouped[self.first[c] + random.permutation(self.counts[c])[: self.shots]]
                for c in chosen.tolist()
            ]
        )
        asked = np.isin(self.class_index, chosen)
        if self.same:
            asked[rows.ravel()] = False
        features = np.asarray(self.queries.features)
        answers = np.searchsorted(chosen, self.class_index[asked])
        return self.database.features[rows], features if asked.all() else features[asked], answers


def _check(classes: Rows, counts: Rows, needed: int, ways: int | None) -> None:
    short = np.flatnonzero(counts < needed)
    if len(short):
        raise UserError(
            f"{len(short)} of {len(classes)} classes have fewer than {needed} examples, such as class "
            f"{classes[short[0]]} with {counts[short[0]]}",
            expected="as many examples of each class as the most shots, and one more where the database is "
            "the split of the queries",
            remedy="lower evaluation.shots, or name another database=",
        )
    if ways is not None and not 2 <= ways <= len(classes):
        raise UserError(
            f"evaluation.ways={ways}", expected=f"null for all {len(classes)} classes, or 2 to {len(classes)}"
        )
