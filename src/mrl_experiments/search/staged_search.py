"""Quality, cost and time of an AdaptiveIndex and a funnel, as the retrieval evaluations measure them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.rerank import Candidates
from mrl_experiments.adaptive.retrieval.shortlist import ADVISED, lists_of
from mrl_experiments.adaptive.retrieval.spec import IndexSpec, Stages, check_stages
from mrl_experiments.directions import SAME_SCORE
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.metrics import ranking
from mrl_experiments.metrics.ranking import relevant_last
from mrl_experiments.nesting import default_dims
from mrl_experiments.notices import print_once
from mrl_experiments.results import Measurement, Setting, measured
from mrl_experiments.search.same_rows import evenly_spaced, told_same_rows, without_self
from mrl_experiments.search.shards import processes, shared

REPEATS = 3
SINGLES = 20  # queries timed one at a time
CELLS = 1 << 24  # of a table of queries and neighbours in memory at a time


@dataclass(frozen=True)
class StagedSearch:
    """Queries (Q, D) against a labelled database, for k neighbours; the first `timed` queries are timed.

    Attributes:
        self_rows: (Q,) the row of the database that each query is, None if they are others. Such a query is
            left out of its neighbours, so that each list of a search holds one more.
    """

    queries: NDArray[np.float32]
    query_labels: NDArray[np.int64]
    database: Embeddings
    k: int
    timed: int
    self_rows: NDArray[np.int64] | None

    @classmethod
    def of(
        cls,
        queries: Embeddings,
        database: Embeddings | None,
        k: int,
        max_queries: int,
        timed: int,
        *,
        labelled: bool = True,
    ) -> "StagedSearch":
        """Take at most `max_queries`, evenly spaced.

        Args:
            queries: Those to draw from.
            database: What they are searched in.
            k: How many neighbours count.
            max_queries: How many are drawn.
            timed: How many of these are timed.
            labelled: Whether labels are read; else none is relevant.

        Raises:
            UserError: If the database is smaller than k, and for labels that are missing.
        """
        same = database is not None and told_same_rows(queries, database)
        if database is None or len(database) - same < k:
            raise UserError(
                f"retrieval of {k} neighbours from {0 if database is None else len(database) - same} "
                f"{'other ' if same else ''}vectors",
                expected="a database at least as large as k",
                remedy="embed the database split as well, or ask for fewer neighbours: evaluation.k=...",
            )
        rows = evenly_spaced(len(queries), max_queries)
        self_rows = rows if same else None
        # Of the database, too, labels that are missing are refused here.
        labels = queries.labels[rows] if labelled and database.labels.size else np.full(len(rows), -1)
        return cls(np.array(queries.features[rows]), labels, database, k, timed, self_rows)

    @property
    def reach(self) -> int:
        """How many neighbours a search has to find for k others than the query: k or k + 1."""
        return self.k + (self.self_rows is not None)

    def build(self, spec: IndexSpec, setting: Setting) -> tuple[AdaptiveIndex, Iterator[Measurement]]:
        """Return the index, with its build time and its bytes besides the vectors as measurements."""
        start = perf_counter()
        index = AdaptiveIndex.build(self.database.features, None, spec)
        costs = {"build_seconds": perf_counter() - start, "index_bytes": index.shortlist_bytes}
        return index, measured(spec.dims[0], costs, setting)

    def build_all(
        self, indexes: Mapping[str, Callable[..., IndexSpec]], nested: Sequence[int]
    ) -> Iterator[tuple[str, int, AdaptiveIndex, Iterator[Measurement]]]:
        """Yield each index by name at each scanned dim, with the measurements of `build`.

        What FAISS cannot build from this database, such as more lists than vectors, is left out with a line
        that says so.

        Raises:
            UserError: If that leaves nothing.
        """
        refused: dict[int, UserError] = {}
        count = 0
        for name, describe in indexes.items():
            refused = {}
            for dim in tracked(nested, f"searching with index={name}", len(nested)):
                try:
                    spec = describe(dims=(dim,), stages=((dim, self.k),))
                    _say_if_few(name, spec.codes, len(self.database))
                    index, costs = self.build(spec, Setting(index=name))
                except UserError as error:
                    if not isinstance(error.__cause__, RuntimeError):  # a fault of the data or of the options
                        raise
                    refused[dim] = error
                else:
                    count += 1
                    yield name, dim, index, costs
            for first in list(refused.values())[:1]:
                print_once(f"index={name} is left out at {list(refused)} dims: {first.problem}")
        if not count:
            raise next(iter(refused.values()), UserError("there is no index", expected="at least one"))

    def others(self, rows: NDArray[np.int64], *found: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Return neighbours (R, reach), and what goes with them, without the queries in rows (R,), (R, k)."""
        return found if self.self_rows is None else without_self(self.self_rows[rows], *found)

    def relevant(self, found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which neighbours (R, reach) of the queries in rows (R,) have their label, (R, k).

        -1 is no neighbour.
        """
        (found,) = self.others(rows, found)
        return (found >= 0) & (self.database.labels[found] == self.query_labels[rows, None])

    def measure(self, index: AdaptiveIndex, stages: Stages, setting: Setting) -> Iterator[Measurement]:
        """Yield quality, multiply-adds and milliseconds a query of one funnel; `dim` is the scanned one."""
        relevant = self.relevant(self._found(index, stages), np.arange(len(self.queries)))
        values = {
            f"mAP@{self.k}": ranking.average_precision(relevant, self.k).mean(),
            f"P@{self.k}": ranking.precision(relevant, self.k).mean(),
            "top1": ranking.hit(relevant, 1).mean(),
            "queries": len(self.queries),
            "macs": index.macs(self.queries[: self.timed], stages),
            **self._latencies(index, stages),
        }
        yield from measured(stages[0][0], values, setting)

    def _found(self, index: AdaptiveIndex, stages: Stages) -> NDArray[np.int64]:
        """Return the neighbours (Q, reach) after the stages; at each cut a tie counts against the label."""
        count = len(self.queries)
        return shared(count, 1, lambda part: self._found_of(index, stages, part), np.concatenate)

    def _found_of(self, index: AdaptiveIndex, stages: Stages, part: slice) -> NDArray[np.int64]:
        """Return the neighbours of a part of the queries."""
        longer, rows = self.reach - self.k, np.arange(part.start, part.stop)
        (dim, keep), *later = check_stages([(dim, keep + longer) for dim, keep in stages], index.spec.dims)
        found = self._scan(index, dim, keep, rows, keep)
        for dim, keep in later:
            scored = index.rerank(self.queries[part], found, dim, found.ids.shape[1])
            found, _ = self._cut(scored, rows, keep)
        return found.ids

    def _scan(
        self, index: AdaptiveIndex, dim: int, keep: int, rows: NDArray[np.int64], length: int
    ) -> Candidates:
        """Return a shortlist of `keep` for the queries `rows`, cut from one of `length`.

        Where a row with the query's label is as near as the last that was found, others that are as near may
        not have been: then from a longer one.
        """
        found = index.scan(self.queries[rows], dim, length)
        shortlist, relevant = self._cut(found, rows, keep)
        as_near = shortlist.similarities <= found.similarities[:, -1:] + SAME_SCORE
        tied = np.flatnonzero((relevant & as_near).any(axis=1))
        if length < len(index):
            length = min(8 * length, len(index))
            for start in range(0, len(tied), part := max(1, CELLS // length)):
                again = tied[start : start + part]
                longer = self._scan(index, dim, keep, rows[again], length)
                shortlist.similarities[again], shortlist.ids[again] = longer
        return shortlist

    def _cut(
        self, found: Candidates, rows: NDArray[np.int64], keep: int
    ) -> tuple[Candidates, NDArray[np.bool_]]:
        """Return the nearest `keep` of the queries `rows`, and which have their label: last among equals."""
        relevant = (found.ids >= 0) & (self.database.labels[found.ids] == self.query_labels[rows, None])
        order = relevant_last(found.similarities, relevant)[:, :keep]
        similarities, ids, relevant = (np.take_along_axis(part, order, axis=1) for part in (*found, relevant))
        return Candidates(similarities, ids), relevant

    def _latencies(self, index: AdaptiveIndex, stages: Stages) -> dict[str, float]:
        if processes()[0]:  # the first process alone takes the time
            return {}
        batch = self.queries[: self.timed]
        singles = [batch[row : row + 1] for row in range(min(SINGLES, len(batch)))]
        times = {}
        for suffix, threads in (("", 1), ("_all_threads", None)):
            with threadpool_limits(threads):
                seconds = _repeated(index, [batch], stages)
                times[f"latency_ms{suffix}"] = median(seconds) / len(batch) * 1e3
                times[f"single_latency_ms{suffix}"] = median(_repeated(index, singles, stages)) * 1e3
        return times


def _say_if_few(name: str, codes: str, count: int) -> None:
    for lists in lists_of(codes):
        if lists <= count < ADVISED * lists:
            advised = f"FAISS advises {ADVISED * lists:,} or more"
            print_once(f"index={name}: {lists} lists for {count:,} vectors; {advised}")


def nested_dims(queries: Embeddings, dims: Sequence[int]) -> list[int]:
    """Return the dims to scan and re-rank at: those trained, or the usual halvings of a run with one."""
    trained = [dim for dim in dims if dim in queries.trained_dims]
    nested = trained if len(trained) > 1 else [dim for dim in dims if dim in default_dims(queries.width)]
    if len(nested) < 2:
        raise UserError(f"dims={list(dims)} leave nothing to re-rank", expected="at least two nested dims")
    return nested


def _repeated(index: AdaptiveIndex, batches: Sequence[NDArray[np.float32]], stages: Stages) -> list[float]:
    """Return the seconds of each search, of each batch several times."""
    seconds = []
    for _ in range(REPEATS):
        for batch in batches:
            start = perf_counter()
            index.search_stages(batch, stages)
            seconds.append(perf_counter() - start)
    return seconds
