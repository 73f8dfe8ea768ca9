"""DiskIndex: an AdaptiveIndex whose vectors stay on disk, for more of them than memory holds."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval import rerank
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.disk_files import (
    LOCK,
    Appended,
    Described,
    check_files,
    ids_name,
    open_parts,
    publish,
    read_description,
    remove_others,
    vectors_name,
    write_array,
    write_faiss,
)
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex, as_ids, check_ids, checked_vectors
from mrl_experiments.adaptive.retrieval.promise import Promise
from mrl_experiments.adaptive.retrieval.shortlist import core_of, extend_shortlist, set_effort
from mrl_experiments.adaptive.retrieval.similarity import check_range, compared
from mrl_experiments.adaptive.retrieval.spec import split_effort
from mrl_experiments.adaptive.retrieval.stacked import Stacked
from mrl_experiments.errors import UserError, said
from mrl_experiments.files import atomic_path
from mrl_experiments.locks import acquire
from mrl_experiments.loops import tracked

ROWS = 16384  # vectors in memory at a time
TOGETHER, MANY = 64, 4096  # queries whose candidates are read at a time, from the disk and from memory
TABLE, TABLES = 160, 64 << 20  # bytes of FAISS's tables: for a byte of code, and for all at a time
UNCODED = 0.05  # the share of vectors without stored codes from which all are written anew
LEAST_UNCODED = 50_000
TRIES = 20  # to open a version while a writer replaces it
ROUNDED = 1e-3  # of a vector, by which its 16 bits may differ from it; numbers above 6e-5 differ by half
NONE = np.empty(0, np.float32)
Rows = NDArray[np.int64]


@dataclass
class DiskIndex(AdaptiveIndex):
    """An index of which memory holds the codes only; vectors are read from disk for the re-rank.

    Vectors lie in their folder as 16-bit or 32-bit numbers, of norm 1 where cosines are compared. What
    `add`, `delete`, `update` and `compact` change is a further version of the folder: other processes keep
    the one they opened until they `refresh`. Of writers one works at a time.

    Attributes:
        folder: Where it lies.
        described: The version that is open.

    Example:
        >>> import tempfile
        >>> vectors = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = AdaptiveIndex.on_disk(folder, vectors)
        ...     index.delete([3])
        ...     index.search(vectors[2:4], 1).ids[0].tolist(), AdaptiveIndex.on_disk(folder).live
        ([2], 1999)
    """

    folder: Path = Path()
    described: Described | None = None
    _alive: NDArray[np.bool_] | None = field(default=None, repr=False)
    _cold: bool = field(default=True, repr=False)
    _touched: bool = field(default=False, repr=False)

    @classmethod
    def open(cls, folder: Path | str) -> "DiskIndex":
        """Open the newest version; a process that only reads needs no rights to write.

        Raises:
            UserError: If it is incomplete or damaged.
        """
        folder = Path(folder)
        for number in range(TRIES):
            described = read_description(folder)
            try:
                return cls._of(folder, described)
            except UserError:  # perhaps a writer has replaced it meanwhile
                if number + 1 == TRIES or read_description(folder).generation == described.generation:
                    raise
        raise AssertionError("the last try returns or raises")

    @classmethod
    def _of(cls, folder: Path, described: Described) -> "DiskIndex":
        check_files(folder, described)
        vectors, ids = open_parts(folder, described)
        spec, rows = described.spec, sum(len(part.rows) for part in vectors)
        try:
            codes = faiss.read_index(str(folder / described.codes))
            if codes.d != spec.dims[0] or not codes.ntotal <= described.coded <= rows:
                raise ValueError(f"{described.codes} does not fit the vectors")
            promise, deleted = None, np.empty(0, np.int64)
            if described.deleted:
                deleted = as_ids(np.load(folder / described.deleted))
                if deleted.ndim != 1 or not 0 <= deleted.min(initial=0) <= deleted.max(initial=0) < rows:
                    raise ValueError(f"{described.deleted} does not fit the vectors")
            if described.promise and described.promised:
                with np.load(folder / described.promised) as stored:
                    promise = Promise.of(described.promise, dict(stored))
        except Exception as error:  # forged files make their readers raise anything
            raise UserError(f"{folder} is damaged: {said(error)}", remedy="build it again") from error
        given = (Stacked(vectors, np.float32), Stacked(ids, np.int64), {spec.dims[0]: codes})
        index = cls(spec, *given, promise=promise, folder=folder, described=described)  # type: ignore[arg-type]
        index._encode(described.coded)
        index._forget(deleted)
        set_effort(codes, spec.effort)
        return index

    @property
    def live(self) -> int:
        """How many vectors can be found: those of the files less the deleted ones."""
        return len(self) - (0 if self.deleted is None else int(self.deleted.sum()))

    @property
    def shortlist_bytes(self) -> int:
        """The size of the codes, about what they take of memory."""
        codes = core_of(self._codes)
        return int(codes.ntotal * (codes.code_size + 8))

    @property
    def _codes(self) -> Any:
        return self.shortlists[self.spec.dims[0]]

    @property
    def _now(self) -> Described:
        assert self.described is not None
        return self.described

    def refresh(self) -> bool:
        """Take over the newest version, if a writer has made one since; return whether there was one."""
        described = read_description(self.folder)
        if (described.generation, described.files) == (self._now.generation, self._now.files):
            return False  # files tell of a folder that was built anew
        self._take(DiskIndex.open(self.folder))
        return True

    def _take(self, other: "DiskIndex") -> None:
        mine = None if self.spec == self._now.spec else self.spec  # set by `configure`, and not saved
        vars(self).update(vars(other))
        if mine is not None:
            self.configure(mine.effort, mine.stages)

    # -- search ------------------------------------------------------------------------------------------

    def rerank(
        self, queries: NDArray[np.float32], found: Candidates, dim: int, keep: int, patience: int = 0
    ) -> Candidates:
        """Return the best `keep` of `found` exactly compared at `dim`; `found` stays as it is.

        Where the last re-rank had to wait for the disk, the rows of the next are announced to the system
        beforehand, in their order, so that it fetches many at once.
        """
        keep, parts = min(keep, found.ids.shape[1]), []
        together = TOGETHER if self._cold or not rerank.COMPILED else MANY
        for start in range(0, max(1, len(queries)), together):
            rows = slice(start, start + together)
            parts.append(self._rerank(queries[rows], found.ids[rows], dim, keep, patience))
        return Candidates(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _rerank(
        self, queries: NDArray[np.float32], ids: Rows, dim: int, keep: int, patience: int
    ) -> Candidates:
        stored: Any = self.vectors
        read = _blocks_read()
        each = [(part, stored.local(number, ids)) for number, part in enumerate(stored.parts)]
        if self._cold:
            for part, local in each:
                part.announce(np.unique(local[local >= 0]))
        similarity = self.spec.similarity
        asked = compared(queries, dim, similarity)
        if rerank.COMPILED and (dim == self.width or similarity != "cosine"):
            from mrl_experiments.adaptive.retrieval.kernels import rerank as compiled

            given = (keep, similarity == "l2", patience)
            found = self._joined(
                [compiled(asked, part.rows, NONE, local, *given) for part, local in each], keep
            )
        else:
            found = self._gathered(asked, ids, dim, keep)
        self._cold = _blocks_read() > read
        return found

    def _joined(self, found: Sequence[Candidates], keep: int) -> Candidates:
        """Return the best of what was found in each part, as rows of all."""
        starts = [0, *self.vectors.ends[:-1].tolist()]  # type: ignore[attr-defined]
        if len(found) == 1:
            return found[0]
        ids = [np.where(one.ids < 0, -1, one.ids + start) for one, start in zip(found, starts, strict=True)]
        scores = [one.similarities for one in found]
        return rerank.best(Candidates(np.concatenate(scores, axis=1), np.concatenate(ids, axis=1)), keep)

    def _gathered(self, asked: NDArray[np.float32], ids: Rows, dim: int, keep: int) -> Candidates:
        """Compare with a copy of the rows that are asked for: at shorter dims, and without numba."""
        rows, places = np.unique(np.maximum(ids, 0), return_inverse=True)
        kind = "l2" if self.spec.similarity == "l2" else "inner_product"
        shorter = dim < self.width  # whole vectors are of norm 1 already
        copied = compared(self.vectors[rows], dim, self.spec.similarity if shorter else kind)
        local = np.where(ids < 0, -1, places.reshape(ids.shape))
        found = rerank.nearest(asked, copied, NONE, Candidates(NONE, local), dim, keep, kind)
        return Candidates(found.similarities, np.where(found.ids < 0, -1, rows[found.ids]))

    def scan(
        self,
        queries: NDArray[np.float32],
        dim: int,
        keep: int,
        mask: NDArray[np.bool_] | None = None,
        effort: str | None = None,
    ) -> Candidates:
        """Return the shortlist of queries (Q, D), as `AdaptiveIndex.scan`; codes of deleted rows are gone."""
        if mask is self._alive:
            mask = None
        # FAISS makes a table of bytes for each query and list at once.
        core, said = core_of(self._codes), dict(part.split("=") for part in _parts_of(effort))
        each = TABLE * core.code_size * int(said.get("nprobe", core.nprobe))
        together, found = max(1, TABLES // each), []
        for start in range(0, max(1, len(queries)), together):
            found.append(super().scan(queries[start : start + together], dim, keep, mask, effort))
        return Candidates(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _reader(self, dim: int) -> None:
        """Codes change in place while others read: FAISS alone scans them."""

    def _checked_mask(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        return self._alive if mask is None or mask is self._alive else super()._checked_mask(mask)

    # -- changes -----------------------------------------------------------------------------------------

    def add(self, embeddings: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Append embeddings (N', D) under new ids; clusters and codes stay as trained.

        Raises:
            UserError: If widths differ or an id is already in the index; the index is then unchanged.
        """
        added, numbers = self._checked_added(embeddings, ids)
        with self._changing("adds vectors"):
            self._refuse_known(numbers)
            self._publish(self._appended(added, numbers), self._deleted_rows())

    def delete(self, ids: NDArray[np.int64] | Sequence[int]) -> None:
        """Delete vectors from what is found; `compact` frees their place on the disk.

        Raises:
            UserError: If an id is not in the index; the index is then unchanged.
        """
        with self._changing("deletes vectors"):
            rows = self._rows(ids)
            if len(np.unique(rows)) == self.live:
                raise UserError(f"all {self.live} vectors deleted", expected="at least one that stays")
            self._publish(self._now, np.union1d(self._deleted_rows(), rows))

    def update(self, embeddings: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Replace the vectors of ids that are there, all at once for those who read.

        Raises:
            UserError: If widths differ or an id is not in the index; the index is then unchanged.
        """
        added, numbers = self._checked_added(embeddings, ids)
        with self._changing("updates vectors"):
            rows = self._rows(numbers)
            self._publish(self._appended(added, numbers), np.union1d(self._deleted_rows(), rows))

    def compact(self) -> None:
        """Write the vectors that are not deleted anew, in one file, and remove the others.

        Takes as much of the disk as they do until it is done. Codes stay as they are. A declared recall
        keeps its queries but for those of deleted vectors.
        """
        with self._changing("compacts the index"):
            now, number = self._now, max(self._now.segments) + 1
            alive = ~self._mask()
            kept = Appended(self.folder / vectors_name(number), now.dtype, (self.width,), 0)
            names = Appended(self.folder / ids_name(number), np.int64, (), 0)
            starts = range(0, len(self), ROWS)
            for start in tracked(starts, "compacting", len(starts)):
                here = alive[start : start + ROWS]
                kept.append(self.vectors[start : start + ROWS][here])
                names.append(self.ids[start : start + ROWS][here])
            kept.close(whole=True)
            names.close(whole=True)
            self._touched, places = True, np.cumsum(alive) - 1
            self._renumber(places)
            codes = f"codes-{now.generation + 1}.faiss"
            write_faiss(self._codes, self.folder / codes)
            if self.promise is not None:
                rows = self.promise.rows
                there = (rows < 0) | alive[rows]
                moved = np.where(rows < 0, -1, places[rows])[there]
                self.promise = replace(self.promise, rows=moved, queries=self.promise.queries[there])
            changed = replace(now, segments=(number,), codes=codes, coded=int(alive.sum()))
            self._publish(changed, np.empty(0, np.int64), codes_match=True)

    def certify(self) -> None:
        """Test the declared recall anew, after vectors were added or deleted; see `Promise.renewed`.

        Raises:
            UserError: If none was declared.
        """
        with self._changing("tests the recall"):
            super().certify()
            self._publish(replace(self._now, spec=self.spec), self._deleted_rows())

    def save(self, folder: Path | str | None = None) -> None:
        """Keep the effort and stages that `configure` has set for those who open the index later.

        Raises:
            UserError: For a folder, since the index has its own.
        """
        if folder is not None:
            return super().save(folder)
        with self._changing("sets the search"):
            self._publish(replace(self._now, spec=self.spec), self._deleted_rows())

    def first_version(self, codes: str) -> None:
        """Make what was built the first version; its codes are in the file of this name."""
        described = replace(self._now, codes=codes, spec=self.spec)
        self._publish(described, np.empty(0, np.int64), codes_match=True)

    @contextmanager
    def _changing(self, purpose: str) -> Iterator[None]:
        """Hold the writers' lock, with the newest version open; what fails leaves that version alone."""
        with acquire(self.folder / LOCK, purpose):
            self.refresh()
            remove_others(self.folder, self._now)
            self._touched = False
            try:
                yield
            except BaseException:
                remove_others(self.folder, self._now)
                if self._touched:
                    self._take(DiskIndex.open(self.folder))
                raise

    def _checked_added(self, embeddings: Any, ids: Any) -> tuple[NDArray[Any], Rows]:
        """Return vectors as they are stored, and their ids."""
        added = checked_vectors(embeddings, "added vectors", self.width)
        check_range(added, [*self.spec.dims, self.width], self.spec.similarity, "added vectors")
        return as_stored(added, self.spec.similarity, self._now.dtype), check_ids(ids, len(added))

    def _appended(self, added: NDArray[Any], numbers: Rows) -> Described:
        """Write a segment more and return what describes the index with it."""
        now, number = self._now, max(self._now.segments) + 1
        write_array(self.folder / vectors_name(number), added)
        write_array(self.folder / ids_name(number), numbers)
        return replace(now, segments=(*now.segments, number))

    def _publish(self, described: Described, deleted: Rows, *, codes_match: bool = False) -> None:
        """Make `described`, with these deleted rows, the newest version, and take it over.

        Args:
            described: Its segments are written.
            deleted: Rows, ascending.
            codes_match: The codes in memory are those of `described` already.
        """
        before, generation = self._now, self._now.generation + 1
        self._touched = True
        grown = described.segments != before.segments or len(deleted) != np.count_nonzero(self._mask())
        if grown and not codes_match and self.promise is not None:
            self._changed()
        named: dict[str, Any] = {"deleted": None, "promised": None, "promise": None}
        if len(deleted):
            named["deleted"] = f"deleted-{generation}.npy"
            write_array(self.folder / named["deleted"], deleted)
        if self.promise is not None:
            named["promise"], arrays = self.promise.stored()
            named["promised"] = f"promised-{generation}.npz"
            with atomic_path(self.folder / named["promised"]) as path, path.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        described = replace(described, generation=generation, **named)
        first = len(self)
        self._open_rows(described)
        if not codes_match:
            self._encode(first)
        if len(self) - described.coded > max(LEAST_UNCODED, UNCODED * len(self)):
            described = replace(described, codes=f"codes-{generation}.faiss", coded=len(self))
            write_faiss(self._codes, self.folder / described.codes)
        self.described = publish(self.folder, described)
        self._forget(deleted)

    def _open_rows(self, described: Described) -> None:
        vectors, ids = open_parts(self.folder, described)
        self.vectors, self.ids = Stacked(vectors, np.float32), Stacked(ids, np.int64)  # type: ignore[assignment]

    def _encode(self, first: int) -> None:
        """Add the rows from `first` on to what is found."""
        for start in range(first, len(self), ROWS):
            rows = np.arange(start, min(start + ROWS, len(self)))
            extend_shortlist(self._codes, self.vectors[start : start + ROWS], rows, self.spec.similarity)

    def _forget(self, deleted: Rows) -> None:
        """Take the codes of deleted rows out of the lists."""
        self.deleted = self._alive = None
        if len(deleted):
            self.deleted = np.zeros(len(self), bool)
            self.deleted[deleted] = True
            self._alive = ~self.deleted
            self._codes.remove_ids(deleted)

    def _deleted_rows(self) -> Rows:
        return np.flatnonzero(self._mask())

    def _mask(self) -> NDArray[np.bool_]:
        return np.zeros(len(self), bool) if self.deleted is None else self.deleted

    def _renumber(self, places: Rows) -> None:
        """Give the codes of each row its new place."""
        lists = core_of(self._codes).invlists
        for number in range(lists.nlist):
            size = lists.list_size(number)
            if size:
                numbers = faiss.rev_swig_ptr(lists.get_ids(number), size)
                numbers[:] = places[numbers]

    def _rows(self, ids: Any) -> Rows:
        """Return the positions of ids (M,), in one pass over all."""
        wanted, place = np.unique(as_ids(ids), return_inverse=True)
        rows = np.full(len(wanted), -1)
        for start, numbers in self._alive_ids():
            here = np.flatnonzero(np.isin(numbers, wanted) & (numbers >= 0))
            rows[np.searchsorted(wanted, numbers[here])] = start + here
        if (gone := rows < 0).any():
            raise UserError(
                f"{int(gone.sum())} of {len(wanted)} ids are not in the index, such as {wanted[gone][0]}",
                expected="ids that are there",
            )
        return rows[place.ravel()]

    def _alive_ids(self) -> Iterator[tuple[int, Rows]]:
        """Yield blocks of ids with the row of the first; -1 where a vector is deleted."""
        for start in range(0, len(self), 1 << 20):
            numbers = self.ids[start : start + (1 << 20)]
            if self.deleted is not None:
                numbers = np.where(self.deleted[start : start + len(numbers)], -1, numbers)
            yield start, numbers

    def _refuse_known(self, ids: Rows) -> None:
        for _, numbers in self._alive_ids():
            known = np.intersect1d(numbers, ids)
            if len(known):
                raise UserError(
                    f"{len(known)} ids are in the index already, such as {known[0]}",
                    expected="new ids",
                    remedy="update(...) replaces vectors",
                )


def _parts_of(effort: str | None) -> list[str]:
    return [part for part in split_effort(effort or "").faiss.split(",") if part]


def _blocks_read() -> int:
    """Return how many blocks this thread has read from disks; a row that is in memory adds none."""
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_inblock


def as_stored(vectors: NDArray[np.float32], similarity: str, dtype: str) -> NDArray[Any]:
    """Return vectors (N, D) as a DiskIndex keeps them.

    Raises:
        UserError: If 16 bits cannot hold them.
    """
    kept = compared(vectors, vectors.shape[1], similarity)
    with np.errstate(over="ignore"):
        stored = kept.astype(dtype)
    if not np.isfinite(stored).all():
        raise UserError("vectors with numbers beyond 65,504, in 16 bits", remedy='take dtype="float32"')
    if stored.dtype != kept.dtype and similarity != "cosine":  # whose vectors are of norm 1
        lost = np.linalg.norm(stored - kept, axis=1) > ROUNDED * np.linalg.norm(kept, axis=1)
        if lost.any():
            raise UserError(
                f"{lost.sum():,} of {len(kept):,} vectors with numbers so small that 16 bits round them off",
                remedy='take dtype="float32", or scale all of them alike',
            )
    return stored
