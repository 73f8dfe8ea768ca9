"""What an engine answers to the queries of an evaluation, beside exact search and an AdaptiveIndex."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.quality import recall
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import IndexSpec, lists_of, probes_of
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.metrics import ranking
from mrl_experiments.results import Measurement, measured
from mrl_experiments.search.neighbours import similarities_of
from mrl_experiments.search.same_rows import sample_digest
from mrl_experiments.search.staged_search import StagedSearch

SINGLES = 20  # queries timed one at a time
CODES = {"exact": "Flat", "hnsw": "HNSW32", "ivf": "IVF{lists},Flat"}  # as the engine's own index
Search = Callable[[NDArray[np.float32], int | None], NDArray[np.int64]]
"""Maps queries (Q, D) and the length of a shortlist, None for an exact scan, to ids (Q, reach)."""


def served(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    engine: Callable[..., Any],
    name: str | None,
    k: int,
    shortlists: Sequence[int],
    codes: str | None,
    effort: str,
    max_queries: int,
    timed: int,
) -> Iterator[Measurement]:
    """Yield how well and how fast an engine answers, and an AdaptiveIndex of the same prefix beside it.

    `dim` is the prefix of shortlists, or the full width of exact scans. recall@k: the share of the k nearest
    that is found, what is as near as the last counting too. mAP@k and top1: with labels. same_ids: the share
    of queries for which an exact scan finds the ids that ours finds, in the same order. latency_ms: per query
    of `timed` in one call; single_latency_ms: the median of one query alone; with the threads that each has,
    and for an engine with what its client does.

    Args:
        engine: Opens the collection, an `engines.engine.Engine`, which `of` names by default; rows call it
            `name`.
        shortlists: How many are found by prefixes before whole vectors rank them.
        codes: Of the AdaptiveIndex, as faiss.index_factory has it; None: those nearest to the engine's index.
        effort: Its search parameters, "nprobe=16" or "efSearch=64"; "": by the length of the shortlist, as
            those of the engine.

    Raises:
        UserError: If the engine cannot be reached, or holds other vectors than the database.
    """
    labelled = queries.has_labels and database is not None and database.has_labels
    search = StagedSearch.of(queries, database, k, max_queries, timed, labelled=labelled)
    database = search.database
    opened = engine(of=f"{database.meta.get('run')}_{database.meta.get('split')}")
    try:
        shape = _checked(opened, database)
        asked = _Asked(search, shape, labelled)
        codes = codes or CODES[shape.index].format(lists=lists_of(shape.rows))
        stages = ((shape.prefix, search.reach), (shape.width, search.reach))
        spec = IndexSpec((shape.prefix,), codes, stages, effort=effort, similarity=shape.similarity)
        kept = [length for length in shortlists if search.reach <= length <= len(database)]
        of_ours = asked.adaptive(spec)

        def of_engine(vectors: NDArray[np.float32], shortlist: int | None) -> NDArray[np.int64]:
            ids: NDArray[np.int64] = opened.search(vectors, search.reach, shortlist)
            return ids

        yield from asked.measure(f"{name} exact", of_engine, None)
        yield from asked.measure("exact scan", asked.scan, None)
        for length in tracked(kept, f"asking {name}", len(kept)):
            yield from asked.measure(f"{name} {shape.index}", of_engine, length)
            yield from asked.measure(f"AdaptiveIndex {codes}", of_ours, length)
    finally:
        opened.close()


def _checked(opened: Any, database: Embeddings) -> Any:
    """Return the `engines.engine.Shape` of a collection that holds the database."""
    shape = opened.shape()
    if shape is not None and shape.sample == sample_digest(database.features):
        return shape
    held = "is not there" if shape is None else f"holds {shape.rows:,} other vectors of {shape.width} dims"
    raise UserError(
        f"{opened.place} {held}",
        expected=f"the {len(database):,} vectors of {database.width} dims that are searched, as stored",
        remedy="write them: export.py target=...; with reduction=prefix, which changes none",
    )


@dataclass(frozen=True)
class _Asked:
    """Queries of a collection of this shape."""

    search: StagedSearch
    shape: Any
    labelled: bool

    def scan(self, vectors: NDArray[np.float32], _: int | None = None) -> NDArray[np.int64]:
        """Return the ids (Q, reach) that a scan of all whole vectors finds."""
        features = self.search.database.features
        return exact_neighbours(vectors, features, self.search.reach, self.shape.similarity).ids

    @cached_property
    def exact(self) -> Candidates:
        """What exact search finds of the queries."""
        return self._scored(self.scan(self.search.queries))

    def adaptive(self, spec: IndexSpec) -> Search:
        """Return the search of an AdaptiveIndex by a shortlist and its re-rank by whole vectors."""
        index = AdaptiveIndex.build(self.search.database.features, None, spec)
        (dim, _), (width, reach) = spec.stages

        def search(vectors: NDArray[np.float32], shortlist: int | None) -> NDArray[np.int64]:
            kept = shortlist or reach
            usual = {"HNSW": f"efSearch={max(64, kept)}", "IVF": f"nprobe={probes_of(self.shape.rows, kept)}"}
            effort = next((text for kind, text in usual.items() if kind in spec.codes), "")
            stages = ((dim, kept), (width, reach))
            return index.search_stages(vectors, stages, effort=spec.effort or effort).ids

        return search

    def measure(self, name: str, search: Search, shortlist: int | None) -> Iterator[Measurement]:
        """Yield quality and times of one way to search."""
        asked, rows = self.search, np.arange(len(self.search.queries))
        found = search(asked.queries, shortlist)
        scored = self._scored(found)
        values = {f"recall@{asked.k}": recall(self.exact)(scored, rows).mean()}
        if shortlist is None:
            values["same_ids"] = (scored.ids == self.exact.ids).all(axis=1).mean()
        if self.labelled:
            relevant = asked.relevant(found, rows)
            values[f"mAP@{asked.k}"] = ranking.average_precision(relevant, asked.k).mean()
            values["top1"] = ranking.hit(relevant, 1).mean()
        batch = asked.queries[: asked.timed]
        values["latency_ms"] = _milliseconds(search, batch, shortlist) / len(batch)
        singles = [_milliseconds(search, query[None], shortlist) for query in batch[:SINGLES]]
        values |= {"single_latency_ms": median(singles), "queries": len(rows)}
        setting = {"index": name} if shortlist is None else {"index": name, "shortlist": shortlist}
        dim = self.shape.width if shortlist is None else self.shape.prefix
        yield from measured(dim, values, setting)

    def _scored(self, found: NDArray[np.int64]) -> Candidates:
        """Return neighbours other than the query with similarities as we compute them."""
        asked, shape = self.search, self.shape
        (ids,) = asked.others(np.arange(len(found)), found)
        places, features = np.maximum(ids, 0), asked.database.features
        near = similarities_of(asked.queries, features, places, shape.width, shape.similarity)
        return Candidates(near, ids)


def _milliseconds(search: Search, batch: NDArray[np.float32], shortlist: int | None) -> float:
    start = perf_counter()
    search(batch, shortlist)
    return (perf_counter() - start) * 1e3
