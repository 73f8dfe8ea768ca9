"""An index of which only the recall is declared."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.families import declared_families
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex, check_ids, checked_vectors
from mrl_experiments.adaptive.retrieval.promise import Promise, Watch, figures
from mrl_experiments.adaptive.retrieval.quality import recall as share_found
from mrl_experiments.adaptive.retrieval.similarity import check_range, check_similarity, exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import BOUNDED, LEVELS, IndexSpec, check_whole
from mrl_experiments.adaptive.retrieval.tuning import Budget, Family, Tuner, queries_needed
from mrl_experiments.errors import UserError
from mrl_experiments.nesting import default_dims
from mrl_experiments.notices import print_once

SPARED = 10  # one vector in so many may be drawn as a query
ENOUGH, TIMES = (
    1500,
    3,
)  # queries that are drawn: so many, or so many times those that a promise takes at least


def build_declared(
    embeddings: NDArray[np.float32],
    ids: NDArray[np.int64] | None,
    recall: float,
    k: int,
    queries: NDArray[np.float32] | None = None,
    similarity: str = "cosine",
    *,
    dims: Sequence[int] | None = None,
    confidence: float = 0.95,
    threads: int | None = None,
    seed: int = 0,
) -> AdaptiveIndex:
    """Return the fastest index found that keeps a recall, with its `promise`.

    Indexes that scan a nested dim are tried beside those of the whole width, and the choice is tested on
    queries that took no part in it (`Tuner`). The recall of the k nearest at full width is promised on
    average over queries like the given ones, with confidence over their draw. Where none are given, they are
    drawn from the embeddings; no index is trained on these or holds them until it was tested, so that they
    are as new to it as later queries are. Exact search is taken where nothing else is shown to keep the
    recall.

    Args:
        embeddings: (N, D), as of `AdaptiveIndex.build`.
        ids: (N,) or None.
        recall: Above 0 and below 1.
        k: How many neighbours.
        queries: (Q, D) independent draws of what will be asked, or None.
        similarity: "cosine", "inner_product" or "l2".
        dims: Nested ones to scan at; None for halvings of D.
        confidence: Of the promise.
        threads: Of each search that is timed, None for all.
        seed: Of what is drawn.

    Raises:
        UserError: If a number is out of its range or the queries are too few.
    """
    promised = Declared(recall, k, confidence, similarity)
    vectors = checked_vectors(embeddings)
    width = vectors.shape[1]
    check_range(vectors, [width], similarity, "database")
    ids = check_ids(np.arange(len(vectors)) if ids is None else ids, len(vectors))
    if k >= len(vectors):
        raise UserError(f"k={k} of {len(vectors)} vectors", expected="a k below their number")
    asked = _asked(vectors, queries, promised, seed)
    if len(asked.queries) < promised.needed:
        print_once(
            f"{len(vectors):,} vectors are too few to draw the {promised.needed:,} queries that a recall of "
            f"{recall:g} takes: all are compared"
        )
        return _whole(vectors, ids, asked, promised)
    keep = ~np.isin(np.arange(len(vectors)), asked.rows)  # a drawn query is not compared with itself
    exact = exact_neighbours(asked.queries, vectors, k, similarity, keep)
    budget = Budget(max_loss=1 - recall, confidence=confidence)
    given = asked.queries, exact, share_found(exact), budget, threads, k == 1
    calibration = Calibration(*given, ids=ids, held=np.flatnonzero(keep) if asked.drawn else None)
    nested = sorted({*(dims or default_dims(width)), width})
    tuned = calibration.choose(vectors, *declared_families(len(vectors), nested, k, similarity))
    index = tuned.index
    if index.spec.exact:
        return _whole(vectors, ids, asked, promised)
    if asked.drawn:
        index.insert(asked.rows)
    usual = figures(asked.queries, calibration.exact.similarities[:, -1], index.spec.dims[0])
    tested = asked.queries, asked.rows, tuned.kept_settings, Watch(usual)
    index.promise = Promise(recall, k, confidence, *tested)
    return index


@dataclass(frozen=True)
class Declared:
    """What is promised.

    Example:
        >>> Declared(0.99, 10).needed
        599

    Raises:
        UserError: For what no index can keep.
    """

    recall: float
    k: int
    confidence: float = 0.95
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        check_similarity(self.similarity)
        for name, value in (("recall", self.recall), ("confidence", self.confidence)):
            if not 0 < value < 1:
                raise UserError(f"{name}={value}", expected="a number above 0 and below 1, such as 0.99")
        check_whole("k", self.k)

    @property
    def needed(self) -> int:
        """How many queries it takes at least: a third chooses, and of the others none may lose anything."""
        return queries_needed(1 - self.recall, 1 - self.confidence, binary=self.k == 1)

    def too_few(self, count: int) -> UserError:
        """Return the error for `count` queries, which are fewer than needed."""
        others = (replace(self, recall=share) for share in (0.98, 0.97, 0.95, 0.9, 0.8, 0.7, 0.5))
        less = next((one.recall for one in others if one.recall < self.recall and one.needed <= count), None)
        return UserError(
            f"recall={self.recall:g} by {count:,} queries",
            expected=f"at least {self.needed:,} queries to test it by with {self.confidence:.0%} confidence",
            remedy="leave queries out to draw them from the vectors"
            + (f", or declare recall={less:g}" if less else ""),
        )


class Asked(NamedTuple):
    """Queries (Q, D) and their rows in the database; or -1, and `drawn` False, where they are others."""

    queries: NDArray[np.float32]
    rows: NDArray[np.int64]
    drawn: bool


def _asked(
    vectors: NDArray[np.float32], queries: NDArray[np.float32] | None, promised: "Declared", seed: int
) -> Asked:
    """Return what tests a promise: rows of the database, also where most of the given queries are such."""
    most = len(vectors) // SPARED
    if queries is None:
        count = min(most, max(ENOUGH, TIMES * promised.needed))
        drawn = np.sort(np.random.default_rng(seed).choice(len(vectors), count, replace=False))
        return Asked(np.array(vectors[drawn]), drawn, True)
    asked = checked_vectors(queries, "queries", vectors.shape[1])
    if len(asked) < promised.needed:
        raise promised.too_few(len(asked))
    nearest = exact_neighbours(asked, vectors, 1).ids[:, 0]
    same = (vectors[nearest] == asked).all(axis=1)
    if same.mean() <= 0.5:
        return Asked(asked, np.full(len(asked), -1), False)
    rows = np.unique(nearest[same])
    rows = np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False))
    print_once(
        f"{int(same.sum()):,} of {len(asked):,} queries are vectors of the index: "
        "none is compared with itself"
    )
    return Asked(np.array(vectors[rows]), rows, True)


def _whole(
    vectors: NDArray[np.float32], ids: NDArray[np.int64], asked: Asked, promised: Declared
) -> AdaptiveIndex:
    """Return exact search, which keeps any recall; of few queries by bounds from the first features."""
    width, k = vectors.shape[1], promised.k
    codes = "Flat" if promised.similarity == "inner_product" or width < LEVELS else BOUNDED
    spec = IndexSpec((width,), codes, ((width, k),), similarity=promised.similarity)
    index = AdaptiveIndex.holding(vectors, ids, spec)
    found = exact_neighbours(asked.queries, vectors, k + asked.drawn, promised.similarity)
    watch, setting = (
        Watch(figures(asked.queries, found.similarities[:, -1], width)),
        (spec.effort, spec.stages),
    )
    given = promised.recall, k, promised.confidence, asked.queries, asked.rows, (setting,), watch
    index.promise = Promise(*given, exact=True)
    return index


@dataclass(frozen=True)
class Calibration(Tuner):
    """A tuner whose queries may be rows of the database, which indexes are then built without.

    Attributes:
        ids: (N,) of the index.
        held: The rows that indexes hold while they are tried, None for all.
    """

    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    held: NDArray[np.int64] | None = None

    def build(self, database: NDArray[np.float32], family: Family) -> AdaptiveIndex:
        """Return the index of a family, without the queries that are held out."""
        return AdaptiveIndex.holding(database, self.ids, family.spec, self.held)
