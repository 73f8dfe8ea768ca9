"""Few-shot classification: the nearest mean of n examples per class."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from mrl_experiments.directions import dtype_for
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.results import Measurement, mean_and_deviation, measured
from mrl_experiments.search.class_means import nearest_means
from mrl_experiments.search.database import labelled
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
    database = labelled(queries, database)
    dtype = dtype_for([database.width], database.features)
    scores: dict[tuple[int, int], list[float]] = defaultdict(list)
    drawn = _draws(queries, database, max(shots), ways, draws, seed)
    for examples, asked, answers in tracked(drawn, "drawing examples", draws):
        for count in sorted(shots):
            sums = examples[:, :count].sum(axis=1, dtype=dtype)
            for dim, predicted in nearest_means(asked, sums, dims).items():
                scores[dim, count].append(float((predicted == answers).mean()))
    for (dim, count), values in sorted(scores.items()):
        setting = {"shots": count} | ({"ways": ways} if ways else {})
        summary = mean_and_deviation("top1", values)
        half = t.ppf((1 + CONFIDENCE) / 2, draws - 1) * summary["top1_std"] / draws**0.5
        yield from measured(dim, {**summary, "top1_ci95": half}, setting)


def _draws(
    queries: Embeddings, database: Embeddings, shots: int, ways: int | None, draws: int, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], Rows]]:
    """Yield for each draw examples (C, n, D), queries (Q, D), and the index of each query's class (Q,)."""
    same = same_rows(queries, database)
    classes, class_index = np.unique(queries.labels, return_inverse=True)
    grouped = np.argsort(database.labels, kind="stable")  # rows of the database, class by class
    first, last = (np.searchsorted(database.labels[grouped], classes, side) for side in ("left", "right"))
    counts = last - first
    _check(classes, counts, shots + same, ways)
    features = np.asarray(queries.features)
    for draw in range(draws):
        random = np.random.default_rng((seed, draw))
        chosen = np.sort(random.permutation(len(classes))[:ways])
        rows = np.stack([grouped[first[c] + random.permutation(counts[c])[:shots]] for c in chosen.tolist()])
        asked = np.isin(class_index, chosen)
        if same:
            asked[rows.ravel()] = False
        answers = np.searchsorted(chosen, class_index[asked])
        yield database.features[rows], features if asked.all() else features[asked], answers


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
