"""Retrieval of documents that are judged relevant to queries: nDCG, MRR and recall with intervals."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import setting_of
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.ranking import relevant_last
from mrl_experiments.metrics.relevance import read_judgments, rows_of, scores
from mrl_experiments.notices import print_once
from mrl_experiments.results import Measurement, measured
from mrl_experiments.search.database import nearest_of_rows
from mrl_experiments.search.same_rows import told_same_rows

Values = NDArray[np.float64]
INTERVAL = (0.025, 0.975)


def ir(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    qrels: str | None,
    first: int,
    k: Sequence[int],
    resamples: int,
    seed: int,
    similarity: str = "cosine",
) -> Iterator[Measurement]:
    """Yield nDCG@first, MRR@first and recall@k of exact search, as BEIR and TREC measure them.

    Means over the judged queries; see `metrics.relevance.scores`. Of equally near documents the relevant come
    last. <metric>_ci95: half the width of its 95 % interval by a percentile bootstrap over queries.
    <metric>_lost: that of the full vectors, before any reduction, less this one, and its interval: both are
    measured on the same queries and resampled together, which is what tells them apart.

    Args:
        queries: With ids.
        database: The documents, with ids.
        dims: Prefixes to measure.
        qrels: A file of judgments by these ids, as BEIR or TREC write it.
        first: Ranks that nDCG and MRR look at.
        k: Those of recall.
        resamples: Of the queries, for intervals.
        seed: Draws them.
        similarity: By which documents are ranked: cosine, inner_product or l2.

    Raises:
        UserError: Without judgments, for ids that are not there, and for more neighbours than there are.
    """
    if qrels is None or database is None:
        raise UserError(
            "evaluation=ir without judgments of relevance",
            expected="evaluation.qrels=<file>: query, document and grade in each line, as of BEIR and TREC",
            remedy="give it, or measure without any: evaluation=agreement",
        )
    path = Path(qrels).expanduser()
    told_same_rows(queries, database)
    judgments = read_judgments(path)
    asked = rows_of(queries.ids, [*judgments], "query", path)
    documents = rows_of(database.ids, [*{d for one in judgments.values() for d in one}], "document", path)
    grades = [{documents[d]: grade for d, grade in one.items()} for one in judgments.values()]
    if left := len(queries) - len(asked):
        print_once(f"{left:,} of {len(queries):,} queries are not judged in {path} and are left out")
    rows = np.array([*asked.values()])
    scored = partial(_scores, rows=rows, grades=grades, first=first, k=k, similarity=similarity)
    full = scored(queries.unreduced, database.unreduced, dims=[queries.unreduced.width])
    whole = next(iter(full.values()))
    found, setting = scored(queries, database, dims=dims), setting_of(similarity)
    draw = np.random.default_rng(seed)
    counts = [
        np.bincount(draw.integers(0, len(rows), len(rows)), minlength=len(rows)) for _ in range(resamples)
    ]
    for dim, values in tracked(found.items(), "drawing queries anew", len(found)):
        lost = {f"{metric}_lost": whole[metric] - each for metric, each in values.items()}
        for name, per_query in (values | lost).items():
            means = {name: per_query.mean(), f"{name}_ci95": half_interval(per_query, counts)}
            yield from measured(dim, means, setting)
        yield Measurement(dim, "queries", float(len(rows)), setting)


def half_interval(values: Values, counts: Sequence[NDArray[np.int64]]) -> float:
    """Return half the width of the 95 % interval of a mean over queries.

    Args:
        values: (Q,) of each query.
        counts: How often each query is drawn (Q,), in each of several resamples.
    """
    low, high = np.quantile([times @ values for times in counts], INTERVAL) / len(values)
    return float(high - low) / 2


def _scores(
    queries: Embeddings,
    database: Embeddings,
    rows: NDArray[np.int64],
    dims: Sequence[int],
    grades: Sequence[dict[int, int]],
    first: int,
    k: Sequence[int],
    similarity: str,
) -> dict[int, dict[str, Values]]:
    """Return the metrics of each query in `rows`, by dim."""
    found = {}
    nearest = nearest_of_rows(queries, database, rows, dims, max(first, *k), similarity)
    for dim, near in nearest.items():
        relevant = np.array([
            [one.get(document, 0) > 0 for document in line]
            for one, line in zip(grades, near.positions.tolist(), strict=True)
        ])  # fmt: skip
        ranked = np.take_along_axis(near.positions, relevant_last(near.similarities, relevant), axis=1)
        found[dim] = scores(ranked, grades, first, k)
    return found
