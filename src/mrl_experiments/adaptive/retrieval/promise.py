"""A declared recall: what it was tested by, how filters keep it, and whether queries still look alike."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.bounds import p_value
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.quality import recall
from mrl_experiments.adaptive.retrieval.shortlist import core_of
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.errors import UserError

if TYPE_CHECKING:
    from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex

Setting = tuple[str, tuple[tuple[int, int], ...]]
"""An effort and stages: how an index is searched."""

FEW = 2000  # vectors that a mask lets through, of which comparing all takes no longer than a test is worth
FILTERS = 16  # masks whose test is remembered
WATCHED = 200  # queries that are compared with those that tested, at a time
FALSE_ALARM = 0.01  # the chance that queries which are alike are ever called different


class ShiftWarning(UserWarning):
    """Queries differ from those by which a recall was tested."""


@dataclass
class Watch:
    """Tells when queries no longer look like those by which a recall was tested.

    Two figures of a query are compared, by Kolmogorov and Smirnov's test: how near its last neighbour is,
    and the share of its norm that the scanned prefix holds. Levels of repeated tests sum to `FALSE_ALARM`.

    Attributes:
        usual: (T, 2) of the queries that tested.
        recent: Those of the latest queries, until they are enough to be compared.
        waiting: How many they are.
        tests: How many comparisons were made.
        shifted: What differed first, None while nothing did.
    """

    usual: NDArray[np.float32]
    recent: list[tuple[NDArray[np.float32], NDArray[np.float32], int]] = field(default_factory=list)
    waiting: int = 0
    tests: int = 0
    shifted: str | None = None

    def note(self, queries: NDArray[np.float32], found: Candidates, dim: int) -> None:
        """Take in queries (Q, D) with what a scan at `dim` found, and warn once where they differ."""
        if self.shifted is not None:
            return
        self.recent.append((queries, found.similarities[:, -1], dim))
        self.waiting += len(queries)
        if self.waiting < WATCHED:
            return
        from scipy.stats import ks_2samp

        latest = np.concatenate([figures(*part) for part in self.recent])
        self.recent, self.waiting = [], 0
        self.tests += 1
        level = FALSE_ALARM * 6 / (np.pi * self.tests) ** 2 / 2
        for column, name in enumerate(
            ("similarity of the last neighbour", "share of the norm that is scanned")
        ):
            if ks_2samp(self.usual[:, column], latest[:, column], method="asymp").pvalue < level:
                usual, now = np.median(self.usual[:, column]), np.median(latest[:, column])
                self.shifted = (
                    f"{name}: median {now:.3g} of the latest queries, {usual:.3g} of those that tested"
                )
                warnings.warn(
                    f"queries differ from those that the recall was promised for ({self.shifted}); "
                    "build with queries=... like these to promise it for them",
                    ShiftWarning,
                    stacklevel=4,
                )
                return


@dataclass(frozen=True)
class Promise:
    """A recall that an index keeps on average over queries like some, with confidence.

    Attributes:
        recall: The share of the k nearest that is found.
        k: How many each search finds.
        confidence: The chance, over draws of `queries`, that the promise is true.
        queries: (Q, D) a sample of what is asked.
        rows: (Q,) their positions in the database, -1 for queries that are not in it.
        rungs: The settings that keep it, from the one that loses least to the fastest, which is in use.
        watch: What compares later queries with these.
        exact: All vectors are compared, since no other setting is shown to keep the recall.
        stale: Vectors were added or deleted since it was tested.
        filters: By mask, the setting that keeps the recall within it; None for comparing all.
    """

    recall: float
    k: int
    confidence: float
    queries: NDArray[np.float32]
    rows: NDArray[np.int64]
    rungs: tuple[Setting, ...]
    watch: Watch
    exact: bool = False
    stale: bool = False
    filters: dict[bytes, Setting | None] = field(default_factory=dict)

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Promise":
        """Return the promise of which `stored` are the parts."""
        rungs = tuple((effort, tuple(map(tuple, stages))) for effort, stages in described["rungs"])
        given = {**described, "rungs": rungs, "watch": Watch(arrays["usual"])}
        return cls(queries=arrays["queries"], rows=arrays["rows"], **given)

    def stored(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is written of a promise: what JSON holds, and arrays."""
        names = ("recall", "k", "confidence", "rungs", "exact", "stale")
        arrays: dict[str, Any] = {"queries": self.queries, "rows": self.rows, "usual": self.watch.usual}
        return {name: getattr(self, name) for name in names}, arrays

    def search(
        self,
        index: "AdaptiveIndex",
        queries: NDArray[np.float32],
        k: int | None,
        mask: NDArray[np.bool_] | None,
        filtered: bool,
    ) -> Candidates:
        """Return the neighbours (Q, k) of queries as ids, among rows that are True in mask (N,).

        Args:
            index: Whose promise this is.
            queries: (Q, D).
            k: None, or the promised one.
            mask: What may be found, None for all.
            filtered: The caller has given a mask; else it leaves out no more than what was deleted.

        Raises:
            UserError: For another k than the promised one.
        """
        if k not in (None, self.k):
            raise UserError(
                f"k={k} of an index whose recall of {self.recall:g} is promised for k={self.k}",
                expected=f"k={self.k}",
                remedy=f"AdaptiveIndex.build(..., recall={self.recall:g}, k={k}), or index.search_stages",
            )
        if self.stale:
            warnings.warn(
                f"vectors were added or deleted since the recall of {self.recall:g} was tested; "
                "index.certify() tests it anew",
                stacklevel=3,
            )
        chosen = self._within(index, mask) if filtered and mask is not None else self.rungs[-1]
        if chosen is None or (self.exact and not index.spec.exact):
            found = exact_neighbours(queries, index.vectors, self.k, index.spec.similarity, mask)
            found = Candidates(found.similarities, np.where(found.ids < 0, -1, index.ids[found.ids]))
        else:
            found = index.search_stages(queries, chosen[1], mask, chosen[0])
        if not filtered:
            self.watch.note(queries, found, index.spec.dims[0])
        return found

    def _within(self, index: "AdaptiveIndex", mask: NDArray[np.bool_]) -> Setting | None:
        """Return the fastest setting that is shown to keep the recall within a mask, if one is."""
        if index.spec.exact or np.count_nonzero(mask) <= max(FEW, self.k):
            return None
        key = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()
        if key not in self.filters:
            while len(self.filters) >= FILTERS:
                self.filters.pop(next(iter(self.filters)))
            kept = self.tested(index, mask)
            self.filters[key] = kept[-1] if kept else None
        return self.filters[key]

    def tested(self, index: "AdaptiveIndex", mask: NDArray[np.bool_] | None) -> list[Setting]:
        """Return the settings, of `rungs`, that are shown to keep the recall among rows of a mask.

        They are tested in turn until the first that fails, so all keep it at once. Queries of the database
        are not compared with themselves. A graph leads such a query to its neighbours as it leads no other,
        so of a graph nothing is shown then.
        """
        own = bool((self.rows >= 0).any())
        if own and isinstance(core_of(index.shortlists[index.spec.dims[0]]), faiss.IndexHNSW):
            return []
        given = self.queries, index.vectors, self.k + own, index.spec.similarity
        exact = self._others(exact_neighbours(*given, keep=mask), own)
        kept: list[Setting] = []
        for effort, stages in self.rungs:
            longer = tuple((dim, keep + own) for dim, keep in stages)
            found = self._others(index.found(self.queries, longer, mask, effort), own)
            losses = 1 - recall(exact)(found, np.arange(len(self.queries)))
            delta = 1 - self.confidence
            if p_value(losses, 1 - self.recall, delta, binary=self.k == 1) > delta:
                break
            kept.append((effort, stages))
        return kept

    def _others(self, found: Candidates, own: bool) -> Candidates:
        """Return neighbours (Q, k) of k + 1 without the query itself, or without the last."""
        if not own:
            return found
        drop = found.ids == self.rows[:, None]
        drop &= (self.rows >= 0)[:, None]
        drop[~drop.any(axis=1), -1] = True
        return Candidates(*(part[~drop].reshape(len(part), -1) for part in found))

    def renewed(self, index: "AdaptiveIndex") -> "Promise":
        """Return the promise tested anew on the vectors that the index holds now; exact search keeps any."""
        mask = None if index.deleted is None else ~index.deleted
        kept = () if index.spec.exact else tuple(self.tested(index, mask))
        if kept:
            index.configure(*kept[-1])
        rungs, exact = kept or self.rungs, not kept
        return replace(self, rungs=rungs, exact=exact, stale=False, filters={}, watch=Watch(self.watch.usual))


def figures(queries: NDArray[np.float32], last: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return what a `Watch` compares, (Q, 2); last (Q,) is how near the last neighbour is."""
    whole = np.linalg.norm(queries.astype(np.float64), axis=1)
    scanned = np.linalg.norm(queries[:, :dim].astype(np.float64), axis=1)
    share = np.divide(scanned, whole, out=np.zeros_like(whole), where=whole > 0)
    return np.column_stack([last, share]).astype(np.float32)
