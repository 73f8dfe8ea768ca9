"""AdaptiveIndex: find a shortlist on a short prefix, re-rank it exactly on longer ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval import rerank
from mrl_experiments.adaptive.retrieval.rerank import Candidates
from mrl_experiments.adaptive.retrieval.shortlist import (
    build_shortlist,
    extend_shortlist,
    scanned_vectors,
    set_effort,
)
from mrl_experiments.adaptive.retrieval.spec import IndexSpec, Stages, check_stages, funnel
from mrl_experiments.cost import search_macs
from mrl_experiments.directions import inverse_norms, unit_prefixes
from mrl_experiments.embeddings import check_finite
from mrl_experiments.errors import UserError


@dataclass
class AdaptiveIndex:
    """A searchable database of nested representations.

    Attributes:
        spec: What it is made of, and the stages of a search.
        vectors: (N, D) float32, kept once and as given; only the re-rank reads them.
        ids: (N,) int64, unique.
        shortlists: For each scanned dim a FAISS index of the unit-norm prefixes.
        norms: For each re-ranked dim (N,) inverse norms, computed when first needed; see `inverse_norms`.

    Example:
        >>> database = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
        >>> index = AdaptiveIndex.build(database, None, IndexSpec((8,), "Flat", ((8, 20), (32, 5))))
        >>> found = index.search(database[:3], k=5)  # 20 by 8 dims, of these the best 5 by all 32
        >>> found.ids.shape, found.ids[:, 0].tolist()
        ((3, 5), [0, 1, 2])
    """

    spec: IndexSpec
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    shortlists: dict[int, faiss.Index]
    norms: dict[int, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def build(
        cls, embeddings: NDArray[np.float32], ids: NDArray[np.int64] | None, spec: IndexSpec
    ) -> "AdaptiveIndex":
        """Build an index.

        Args:
            embeddings: (N, D) of any real number type, not modified.
            ids: (N,) whole numbers from 0 up; None for positions.
            spec: What to build.

        Raises:
            UserError: If the database is empty, holds NaN or zero vectors, vectors beyond float32 or ones
                narrower than a dim, and if ids repeat.
        """
        width = np.shape(embeddings)[-1] if np.size(embeddings) else 0
        if 0 < width < spec.width:
            raise UserError(
                f"an index that uses {spec.width} features of embeddings of width {width}",
                expected=f"dims up to {width}",
            )
        vectors = _float32(embeddings, "database", "(N, D) with at least 1 vector", width)
        ids = check_ids(np.arange(len(vectors)) if ids is None else ids, len(vectors))
        return cls(spec, vectors, ids, {dim: build_shortlist(vectors, dim, spec) for dim in spec.dims})

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """The number of features D of the database."""
        return int(self.vectors.shape[1])

    @property
    def shortlist_bytes(self) -> int:
        """The size of the FAISS indexes, that is of everything besides the vectors that the re-rank reads."""
        return sum(int(faiss.serialize_index(index).nbytes) for index in self.shortlists.values())

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        shortlist_dim: int | None = None,
        rerank_dims: Sequence[int] | None = None,
        shortlist: int | None = None,
    ) -> Candidates:
        """Return the k nearest neighbours; `search_stages` takes any stages.

        Args:
            queries: (Q, D).
            k: How many neighbours.
            shortlist_dim: The dim to scan.
            rerank_dims: Those to re-rank at, ascending; several make a funnel in which each keeps half. Of
                all three left out, the stages are those of the spec.
            shortlist: How many the scan keeps.

        Returns:
            Cosines at the last dim and ids, both (Q, k).

        Raises:
            UserError: If a dim has no index, dims do not nest, the shortlist is shorter than k, or the
                queries do not fit.
        """
        dims = [dim for dim, _ in self.spec.stages]
        if shortlist_dim is rerank_dims is shortlist is None:
            return self.search_stages(queries, (*self.spec.stages[:-1], (dims[-1], k)))
        return self.search_stages(
            queries,
            funnel(
                dims[0] if shortlist_dim is None else shortlist_dim,
                dims[1:] if rerank_dims is None else rerank_dims,
                max(k, self.spec.stages[0][1]) if shortlist is None else shortlist,
                k,
            ),
        )

    def search_stages(self, queries: NDArray[np.float32], stages: Stages | None = None) -> Candidates:
        """Return what is left after the stages [[dim, keep], ...]: one scan, then any number of re-ranks."""
        (dim, keep), *later = self._checked(stages)
        queries = self._checked_queries(queries)
        found = self.scan(queries, dim, keep)
        for dim, keep in later:
            found = self.rerank(queries, found, dim, keep)
        return Candidates(found.similarities, np.where(found.ids < 0, -1, self.ids[found.ids]))

    def scan(self, queries: NDArray[np.float32], dim: int, keep: int) -> Candidates:
        """Return the shortlist of queries (Q, D) at an indexed dim; ids are positions in `vectors`."""
        keep = min(keep, len(self))
        return Candidates(*self.shortlists[dim].search(unit_prefixes(queries, dim), keep))

    def rerank(self, queries: NDArray[np.float32], found: Candidates, dim: int, keep: int) -> Candidates:
        """Return the best `keep` of `found` by the exact cosine at `dim`; `found` stays as it is."""
        if dim not in self.norms:
            self.norms |= inverse_norms(self.vectors, [dim])
        scores = rerank.similarities(queries, self.vectors, self.norms[dim], found.ids, dim)
        return rerank.best(Candidates(scores, found.ids), keep)

    def macs(self, queries: NDArray[np.float32], stages: Stages | None = None) -> float:
        """Return multiply-adds per query; scanning a code of a prefix counts as scanning the prefix."""
        stages = self._checked(stages)
        dim, keep = stages[0]
        units = unit_prefixes(queries, dim)
        return search_macs(scanned_vectors(self.shortlists[dim], units, keep), stages)

    def add(self, embeddings: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Append embeddings (N', D) under new ids; clusters and codes stay as trained.

        Copies the vectors, in O(N) memory, also those that were memory-mapped.

        Raises:
            UserError: If widths differ or an id is already in the index; the index is then unchanged.
        """
        added = _float32(embeddings, "added vectors", f"(N, {self.width}), as in the index", self.width)
        all_ids = check_ids(np.concatenate([self.ids, ids]), len(self) + len(added))
        for index in self.shortlists.values():
            extend_shortlist(index, added)
        self.norms = {
            dim: np.concatenate([norms, inverse_norms(added, [dim])[dim]])
            for dim, norms in self.norms.items()
        }
        self.vectors, self.ids = np.concatenate([self.vectors, added]), all_ids

    def configure(self, effort: str, stages: Stages) -> None:
        """Set how the index is searched by default: FAISS parameters such as "nprobe=16", and a funnel."""
        spec = replace(self.spec, effort=effort, stages=self._checked(stages))
        for index in self.shortlists.values():
            set_effort(index, effort)
        self.spec = spec

    def _checked(self, stages: Stages | None) -> tuple[tuple[int, int], ...]:
        if stages is None:
            return self.spec.stages
        checked = check_stages(stages, self.spec.dims)
        if checked[-1][0] > self.width:
            raise UserError(f"a re-rank at {checked[-1][0]} features", expected=f"at most {self.width}")
        return checked

    def _checked_queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        return _float32(queries, "queries", f"(Q, {self.width}), as in the index", self.width)


def _float32(given: NDArray[Any], name: str, expected: str, width: int) -> NDArray[np.float32]:
    """Return vectors (N, width) as contiguous float32, once they are known to be finite and not zero."""
    given = np.asarray(given)
    if given.ndim != 2 or not given.shape[1] == width > 0 or given.dtype.kind not in "fiu":
        raise UserError(
            f"{name} of shape {given.shape} and type {given.dtype}", expected=f"{expected}, real numbers"
        )
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, which is refused
        vectors = np.ascontiguousarray(given, np.float32)
    check_finite(vectors, name, remedy="leave these vectors out, or embed them again")
    return vectors


def check_ids(ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ids as int64.

    Raises:
        UserError: Unless they are `count` distinct whole numbers from 0 up.
    """
    ids = np.asarray(ids)
    if ids.shape != (count,) or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0:
        raise UserError(
            f"ids of shape {ids.shape} and type {ids.dtype}, the smallest {ids.min() if ids.size else None}",
            expected=f"({count},) whole numbers from 0 up (-1 stands for no neighbour)",
        )
    values, repeats = np.unique(ids, return_counts=True)
    if len(values) < count:
        twice = values[repeats > 1]
        raise UserError(f"{len(twice)} ids occur more than once, such as {twice[0]}", expected="unique ids")
    return ids.astype(np.int64)
