"""AdaptiveIndex: find a shortlist on a short prefix, re-rank it exactly on longer ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval import rerank
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.promise import Promise
from mrl_experiments.adaptive.retrieval.shortlist import (
    build_shortlist,
    extend_shortlist,
    probes,
    scanned_vectors,
    search_parameters,
    set_effort,
)
from mrl_experiments.adaptive.retrieval.similarity import FEW, check_range, compared, exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import (
    BOUNDED,
    IndexSpec,
    Stages,
    check_stages,
    check_whole,
    funnel,
    split_effort,
)
from mrl_experiments.cost import search_macs
from mrl_experiments.directions import HIGHEST, LOWEST, inverse_norms
from mrl_experiments.embeddings import check_finite
from mrl_experiments.errors import UserError

if TYPE_CHECKING:
    from mrl_experiments.adaptive.retrieval.disk import DiskIndex

MAPPED = 1 << 32  # bytes of vectors on a disk, from which on they stay there
BYTES = "SQ8"  # of lists that a compiled loop searches


@dataclass
class AdaptiveIndex:
    """A searchable database of nested representations.

    Attributes:
        spec: What it is made of, and the stages of a search.
        vectors: (N, D) float32, kept once and as given; only the re-rank reads them.
        ids: (N,) int64, unique.
        shortlists: For each scanned dim a FAISS index of the unit-norm prefixes.
        norms: For each re-ranked dim (N,) inverse norms, computed when first needed; see `inverse_norms`.
            Empty for similarities other than the cosine.
        promise: What was declared of it, if anything; see `build`.
        deleted: (N,) True where a vector is no longer found, None while none was deleted.

    Example:
        >>> database = np.random.default_rng(0).normal(size=(100, 32)).astype(np.float32)
        >>> index = AdaptiveIndex.build(database, None, IndexSpec((8,), "Flat", ((8, 20), (32, 5))))
        >>> found = index.search(database[:3], k=5)  # 20 by 8 dims, of these the best 5 by all 32
        >>> found.ids.shape, found.ids[:, 0].tolist()
        ((3, 5), [0, 1, 2])
        >>> declared = AdaptiveIndex.build(database, recall=0.9, k=5)
        100 vectors are too few to draw the 56 queries that a recall of 0.9 takes: all are compared
        >>> declared.search(database[:3]).ids.shape
        (3, 5)
    """

    spec: IndexSpec
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    shortlists: dict[int, faiss.Index]
    norms: dict[int, NDArray[Any]] = field(default_factory=dict)
    promise: Promise | None = None
    deleted: NDArray[np.bool_] | None = None
    _readers: dict[int, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def build(
        cls,
        embeddings: NDArray[np.float32],
        ids: NDArray[np.int64] | None = None,
        spec: IndexSpec | None = None,
        *,
        recall: float | None = None,
        k: int = 10,
        queries: NDArray[np.float32] | None = None,
        similarity: str = "cosine",
        **options: Any,
    ) -> "AdaptiveIndex":
        """Build an index: what a spec describes, or the fastest that keeps a recall.

        Args:
            embeddings: (N, D) of any real number type, not modified.
            ids: (N,) whole numbers from 0 up; None for positions.
            spec: What to build. None where `recall` declares what is wanted.
            recall: The share of the k nearest by all features that a search finds on average, over queries
                like the given ones, with 95 % confidence; see `declared.build_declared`, which takes further
                options.
            k: How many neighbours each search finds then.
            queries: (Q, D) a sample of what will be asked; None to draw from the embeddings.
            similarity: "cosine", "inner_product" or "l2", of an index with a recall; a spec has its own.
            **options: Those of `build_declared`.

        Raises:
            UserError: If the database is empty, holds NaN or zero vectors, vectors beyond float32 or ones
                narrower than a dim, and if ids repeat. With a recall, also if it is none below 1, or the
                queries are too few to promise it.
        """
        if (spec is None) == (recall is None):
            raise UserError("an index takes a spec or a recall", expected="one of them")
        if spec is None:
            from mrl_experiments.adaptive.retrieval.declared import build_declared

            return build_declared(embeddings, ids, recall or 0.0, k, queries, similarity, **options)
        return cls.holding(embeddings, ids, spec)

    @classmethod
    def on_disk(
        cls, folder: Path | str, vectors: Any = None, ids: NDArray[np.int64] | None = None, **options: Any
    ) -> "DiskIndex":
        """Build an index in a folder, with its vectors there, for more of them than memory holds; or open it.

        Args:
            folder: Where it lies.
            vectors: (N, D), which may be a memory map, or blocks (n, D) of any number; None to open what is
                there.
            ids: (N,) whole numbers from 0 up; None for positions.
            **options: Those of `disk_build.build_on_disk`, such as `spec` or `recall`.

        Raises:
            UserError: As `build`, and if the folder holds another index.
        """
        from mrl_experiments.adaptive.retrieval.disk import DiskIndex

        if vectors is None:
            return DiskIndex.open(folder)
        from mrl_experiments.adaptive.retrieval.disk_build import build_on_disk

        return build_on_disk(folder, vectors, ids, **options)

    @classmethod
    def holding(
        cls,
        embeddings: NDArray[np.float32],
        ids: NDArray[np.int64] | None,
        spec: IndexSpec,
        rows: NDArray[np.int64] | None = None,
    ) -> "AdaptiveIndex":
        """Build an index of what a spec describes that finds only some rows, until `insert` adds others."""
        width = np.shape(embeddings)[-1] if np.size(embeddings) else 0
        if 0 < width < spec.width:
            raise UserError(
                f"an index that uses {spec.width} features of embeddings of width {width}",
                expected=f"dims up to {width}",
            )
        vectors = checked_vectors(embeddings)
        check_range(vectors, [*spec.dims, width], spec.similarity, "database")
        ids = check_ids(np.arange(len(vectors)) if ids is None else ids, len(vectors))
        return cls(spec, vectors, ids, {dim: build_shortlist(vectors, dim, spec, rows) for dim in spec.dims})

    def save(self, folder: Path | str) -> None:
        """Write the index into a folder, from which `load` has it again.

        Raises:
            UserError: For what the operating system refuses, such as a full disk.
        """
        from mrl_experiments.adaptive.retrieval.storage import save_index

        save_index(self, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> "AdaptiveIndex":
        """Open what `save` or `on_disk` wrote; vectors are read from the disk as they are needed.

        Raises:
            UserError: If the folder is incomplete, a file has changed, or another version wrote it.
        """
        from mrl_experiments.adaptive.retrieval.storage import load_index

        return load_index(Path(folder))

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
        k: int | None = None,
        shortlist_dim: int | None = None,
        rerank_dims: Sequence[int] | None = None,
        shortlist: int | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> Candidates:
        """Return the k nearest neighbours; `search_stages` takes any stages.

        Args:
            queries: (Q, D).
            k: How many neighbours; with a declared recall the k that it was built for.
            shortlist_dim: The dim to scan.
            rerank_dims: Those to re-rank at, ascending; several make a funnel in which each keeps half. Of
                all three left out, the stages are those of the spec.
            shortlist: How many the scan keeps.
            mask: (N,) True where the vector of `ids` at this place may be found. A declared recall is kept
                among these; the first search with a mask takes longer, since it tests that.

        Returns:
            Similarities at the last dim and ids, both (Q, k): cosines, products, or squared distances,
            negated.

        Raises:
            UserError: If a dim has no index, dims do not nest, k is no whole number, the shortlist is shorter
                than k, or the queries do not fit.
        """
        dims, k = [dim for dim, _ in self.spec.stages], None if k is None else check_whole("k", k)
        usual = shortlist_dim is rerank_dims is shortlist is None
        if self.promise is not None and usual:
            allowed = self._checked_mask(mask)
            return self.promise.search(self, self._checked_queries(queries), k, allowed, mask is not None)
        if k is None:
            raise UserError("a search without k", expected="k, of an index without a declared recall")
        if usual:
            return self.search_stages(queries, (*self.spec.stages[:-1], (dims[-1], k)), mask)
        return self.search_stages(
            queries,
            funnel(
                dims[0] if shortlist_dim is None else shortlist_dim,
                dims[1:] if rerank_dims is None else rerank_dims,
                max(k, self.spec.stages[0][1]) if shortlist is None else shortlist,
                k,
            ),
            mask,
        )

    def search_stages(
        self,
        queries: NDArray[np.float32],
        stages: Stages | None = None,
        mask: NDArray[np.bool_] | None = None,
        effort: str | None = None,
    ) -> Candidates:
        """Return what is left after the stages [[dim, keep], ...]: one scan, then any number of re-ranks.

        Where a mask (N,) leaves out too much for the scan's codes to find enough, there may be fewer.
        """
        stages, mask = self._checked(stages), self._checked_mask(mask)
        found = self._by_bytes(queries, stages, mask, effort)  # checks queries by the way
        if found is None:
            found = self.found(self._checked_queries(queries), stages, mask, effort)
        ids = self.ids[found.ids]
        if (found.ids[:, -1] < 0).any():  # what is missing comes last
            ids[found.ids < 0] = -1
        return Candidates(found.similarities, ids)

    def found(
        self,
        queries: NDArray[np.float32],
        stages: Stages,
        mask: NDArray[np.bool_] | None = None,
        effort: str | None = None,
    ) -> Candidates:
        """Return what `search_stages` does of what it has checked, as positions."""
        if (answered := self._by_bytes(queries, stages, mask, effort)) is not None:
            return answered
        (dim, keep), *later = stages
        found = self.scan(queries, dim, keep, mask, effort)
        patience = self.spec.patience if effort is None else split_effort(effort).patience
        for number, (dim, keep) in enumerate(later, start=1):
            found = self.rerank(queries, found, dim, keep, patience if number == len(later) else 0)
        return found

    def scan(
        self,
        queries: NDArray[np.float32],
        dim: int,
        keep: int,
        mask: NDArray[np.bool_] | None = None,
        effort: str | None = None,
    ) -> Candidates:
        """Return the shortlist of queries (Q, D) at an indexed dim; ids are positions in `vectors`."""
        keep, index, similarity = min(keep, len(self)), self.shortlists[dim], self.spec.similarity
        if self.spec.codes == BOUNDED and len(queries) >= FEW:  # products of matrices are faster
            return exact_neighbours(queries[:, :dim], self.vectors[:, :dim], keep, similarity, mask)
        asked = compared(queries, dim, similarity, self.spec.rest)
        if mask is None and effort in (None, self.spec.effort):
            found, ids = index.search(asked, keep)
        elif (parameters := search_parameters(index, mask, effort)) is not None:
            found, ids = index.search(asked, keep, params=parameters)
        else:
            return exact_neighbours(queries[:, :dim], self.vectors[:, :dim], keep, similarity, mask)
        if similarity == "cosine" and index.metric_type == faiss.METRIC_L2:
            found = (1 - found / 2).astype(np.float32)  # of vectors of norm 1
        return Candidates(-found if similarity == "l2" else found, ids)

    def _by_bytes(
        self,
        queries: NDArray[np.float32],
        stages: Stages,
        mask: NDArray[np.bool_] | None,
        effort: str | None,
    ) -> Candidates | None:
        """Return what two stages find by one compiled loop, see `byte_lists`; None where it cannot."""
        (dim, shortlist), (last, keep) = stages[0], stages[-1]
        if len(stages) != 2 or last != self.width or (reader := self._reader(dim)) is None:
            return None
        if (
            type(queries) is not np.ndarray
            or queries.shape[1:] != (last,)
            or not len(queries)
            or queries.dtype != np.float32
            or not queries.flags.c_contiguous
        ):
            return None
        shortlist = min(shortlist, len(self))
        read = reader.index.nprobe if effort is None else probes(reader.index, effort)
        margin = split_effort(self.spec.effort if effort is None else effort).margin
        found: Candidates | None = reader.search(queries, shortlist, min(keep, shortlist), read, margin, mask)
        return found

    def _reader(self, dim: int) -> Any:
        """Return the `ByteLists` of a scanned dim, None if its codes are others."""
        index = self.shortlists[dim]
        kept, reader = self._readers.get(dim, (None, None))
        if kept is not index or (reader is not None and reader.count != index.ntotal):
            reader = None
            stays = isinstance(self.vectors, np.memmap) and self.vectors.nbytes > MAPPED
            cosine = self.spec.similarity == "cosine"
            if rerank.COMPILED and cosine and BYTES in self.spec.codes and not stays:
                from mrl_experiments.adaptive.retrieval.byte_lists import ByteLists

                self._know_norms(self.width)
                reader = ByteLists.of(index, self.vectors, self.norms[self.width], self.spec.rest)
            self._readers[dim] = (index, reader)
        return reader

    def _know_norms(self, dim: int) -> None:
        if dim not in self.norms:
            self.norms |= self._norms(self.vectors, [dim])

    def rerank(
        self, queries: NDArray[np.float32], found: Candidates, dim: int, keep: int, patience: int = 0
    ) -> Candidates:
        """Return the best `keep` of `found` exactly compared at `dim`; `found` stays as it is."""
        self._know_norms(dim)
        given = (queries, self.vectors, self.norms[dim], found, dim, min(keep, found.ids.shape[1]))
        return rerank.nearest(*given, self.spec.similarity, patience)

    def _norms(self, vectors: NDArray[np.float32], dims: Sequence[int]) -> dict[int, NDArray[Any]]:
        if self.spec.similarity == "cosine":
            return inverse_norms(vectors, dims)
        return {dim: np.empty(0, np.float32) for dim in dims}

    def macs(self, queries: NDArray[np.float32], stages: Stages | None = None) -> float:
        """Return multiply-adds per query; scanning a code of a prefix counts as scanning the prefix."""
        stages = self._checked(stages)
        dim, keep = stages[0]
        units = compared(queries, dim, self.spec.similarity, self.spec.rest)
        reader, margin = self._reader(dim), split_effort(self.spec.effort).margin
        spread = None if reader is None or margin == np.inf else margin**2 * reader.spread
        return search_macs(scanned_vectors(self.shortlists[dim], units, keep, spread), stages)

    def insert(self, rows: NDArray[np.int64]) -> None:
        """Add rows (N',) of `vectors`, which the index was built without, to what is found."""
        for index in self.shortlists.values():
            extend_shortlist(index, self.vectors[rows], rows, self.spec.similarity, self.spec.rest)

    def add(self, embeddings: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Append embeddings (N', D) under new ids; clusters and codes stay as trained.

        Copies the vectors, in O(N) memory, also those that were memory-mapped. A declared recall has to be
        tested anew (`certify`).

        Raises:
            UserError: If widths differ or an id is already in the index; the index is then unchanged.
        """
        added = checked_vectors(embeddings, "added vectors", self.width)
        check_range(added, [*self.spec.dims, self.width], self.spec.similarity, "added vectors")
        there = self.ids if self.deleted is None else self.ids[~self.deleted]
        ids = check_ids(ids, len(added))
        check_ids(np.concatenate([there, ids]), len(there) + len(added))
        all_ids = np.concatenate([self.ids, ids])
        rows = np.arange(len(self), len(self) + len(added))
        for index in self.shortlists.values():
            extend_shortlist(index, added, rows, self.spec.similarity, self.spec.rest)
        new = self._norms(added, list(self.norms))
        self.norms = {dim: np.concatenate([norms, new[dim]]) for dim, norms in self.norms.items()}
        self.vectors, self.ids = np.concatenate([self.vectors, added]), all_ids
        if self.deleted is not None:
            self.deleted = np.concatenate([self.deleted, np.zeros(len(added), bool)])
        self._changed()

    def delete(self, ids: NDArray[np.int64]) -> None:
        """Delete vectors from what is found; their memory is freed when the index is built anew.

        Raises:
            UserError: If an id is not in the index; the index is then unchanged.
        """
        rows = self._rows(ids)
        deleted = np.zeros(len(self), bool) if self.deleted is None else self.deleted.copy()
        deleted[rows] = True
        if deleted.all():
            raise UserError(f"all {len(self)} vectors deleted", expected="at least one that stays")
        self.deleted = deleted
        self._changed()

    def certify(self) -> None:
        """Test the declared recall anew, after vectors were added or deleted; see `Promise.renewed`.

        Raises:
            UserError: If none was declared.
        """
        if self.promise is None:
            raise UserError(
                "no recall was declared of this index", remedy="AdaptiveIndex.build(x, recall=0.95)"
            )
        self.promise = self.promise.renewed(self)

    def _changed(self) -> None:
        if self.promise is not None:
            self.promise = replace(self.promise, stale=True, filters={})

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of ids (M,)."""
        ids = as_ids(ids).ravel()
        there = np.arange(len(self)) if self.deleted is None else np.flatnonzero(~self.deleted)
        order = there[np.argsort(self.ids[there])]
        places = np.minimum(np.searchsorted(self.ids[order], ids), len(order) - 1)
        rows = order[places]
        gone = self.ids[rows] != ids
        if gone.any():
            raise UserError(
                f"{int(gone.sum())} of {len(ids)} ids are not in the index, such as {ids[gone][0]}",
                expected="ids that are there",
            )
        return rows

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
        if type(queries) is np.ndarray and queries.shape == (1, self.width) and queries.dtype == np.float32:
            with np.errstate(all="ignore"):
                if LOWEST <= queries[0].dot(queries[0]) <= HIGHEST and queries.flags.c_contiguous:
                    return queries  # without the steps that many need
        return checked_vectors(queries, "queries", self.width)

    def _checked_mask(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Return which rows may be found, None for all."""
        if mask is None:
            return None if self.deleted is None else ~self.deleted
        mask = np.asarray(mask)
        if mask.shape != (len(self),) or mask.dtype != bool or not mask.any():
            raise UserError(
                f"a mask of shape {mask.shape} and type {mask.dtype}, {np.count_nonzero(mask)} of it true",
                expected=f"({len(self)},) booleans, one for each of the ids, at least one true",
            )
        return mask if self.deleted is None else mask & ~self.deleted


def checked_vectors(
    given: NDArray[Any], name: str = "database", width: int | None = None
) -> NDArray[np.float32]:
    """Return vectors (N, D) as contiguous float32.

    Raises:
        UserError: Unless there is at least one, and all are finite, not zero and of this width.
    """
    expected = "(N, D) with at least 1 vector" if width is None else f"(N, {width}), as in the index"
    if width is None:
        width = np.shape(given)[-1] if np.size(given) else 0
    return _float32(given, name, expected, width)


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


def as_ids(ids: Any) -> NDArray[np.int64]:
    """Return ids as int64, of any shape.

    Raises:
        UserError: Unless they are whole numbers that int64 holds; True and 1.0 are none.
    """
    try:
        given = np.asarray(ids)
    except ValueError as error:  # lists of several lengths
        raise UserError(f"ids that are no array: {error}", expected="whole numbers from 0 up") from error
    if not given.size:
        return np.empty(given.shape, np.int64)
    if given.dtype.kind not in "iu" or int(given.max()) > np.iinfo(np.int64).max:
        raise UserError(
            f"ids of type {given.dtype}, such as {given.ravel()[0]!r}",
            expected="whole numbers from 0 up, below 2**63",
        )
    return given.astype(np.int64)


def check_ids(ids: Any, count: int) -> NDArray[np.int64]:
    """Return ids as int64.

    Raises:
        UserError: Unless they are `count` distinct whole numbers from 0 up.
    """
    ids = as_ids(ids)
    if ids.shape != (count,) or ids.min() < 0:
        raise UserError(
            f"ids of shape {ids.shape}, the smallest {ids.min() if ids.size else None}",
            expected=f"({count},) whole numbers from 0 up (-1 stands for no neighbour)",
        )
    values, repeats = np.unique(ids, return_counts=True)
    if len(values) < count:
        twice = values[repeats > 1]
        raise UserError(f"{len(twice)} ids occur more than once, such as {twice[0]}", expected="unique ids")
    return ids
