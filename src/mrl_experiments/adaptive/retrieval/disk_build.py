"""Building an index on disk from a stream: what is done is noted, so that a killed build goes on.

Vectors are copied into the folder a block at a time; lists and codes are trained on a sample of them; then
all are encoded. The same call, after a kill at any point, goes on where the last note stands and makes the
same files.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from time import monotonic, thread_time
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.declared import ENOUGH, SPARED, TIMES, Declared
from mrl_experiments.adaptive.retrieval.disk import ROWS, DiskIndex, as_stored
from mrl_experiments.adaptive.retrieval.disk_files import (
    BUILDING,
    DESCRIBED,
    DTYPES,
    LOCK,
    TRAINED,
    Appended,
    Described,
    ids_name,
    vectors_name,
    write_faiss,
)
from mrl_experiments.adaptive.retrieval.families import large_family
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex, check_ids, checked_vectors
from mrl_experiments.adaptive.retrieval.promise import Promise, Watch, figures
from mrl_experiments.adaptive.retrieval.quality import recall as share_found
from mrl_experiments.adaptive.retrieval.shortlist import (
    extend_shortlist,
    lists_of,
    set_effort,
    trained_shortlist,
)
from mrl_experiments.adaptive.retrieval.similarity import (
    check_range,
    check_similarity,
    compared,
    exact_neighbours,
)
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.stacked import Part, Stacked
from mrl_experiments.adaptive.retrieval.tuning import Budget, Family, Tuner
from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    explain_os_errors,
    read_object,
    remove_leftovers,
    remove_quietly,
    require_space,
    write_json,
)
from mrl_experiments.locks import acquire
from mrl_experiments.loops import tracked

SAMPLED = 40  # vectors a list that training sees at most
LEAST_SAMPLED = 65_536
NOTED = 60.0  # seconds after which codes are written again, so that a killed build does not begin anew
CODES = "codes-1.faiss"
REMEDY = "choose another folder, or remove this one"


def build_on_disk(
    folder: Path | str,
    vectors: Any,
    ids: NDArray[np.int64] | None = None,
    *,
    spec: IndexSpec | None = None,
    recall: float | None = None,
    k: int = 10,
    queries: NDArray[np.float32] | None = None,
    similarity: str = "cosine",
    dim: int | None = None,
    dtype: str = "float16",
    count: int | None = None,
    seed: int = 0,
) -> DiskIndex:
    """Build an index in a folder, or go on with a build that was interrupted.

    Args:
        folder: Made where it is missing.
        vectors: (N, D) of any real number type, which may be a memory map; or blocks (n, D) of any number, in
            the same order at each call.
        ids: (N,) whole numbers from 0 up; None for positions.
        spec: What to build, of one dim and with codes that begin with IVF. None for four bits a feature of
            `dim`.
        recall: The share of the k nearest that is to be found on average, with 95 % confidence; the fastest
            effort and shortlist that keep it are chosen. None for those of the spec.
        k: How many neighbours a declared recall speaks of.
        queries: (Q, D) a sample of what will be asked; None to draw from the vectors.
        similarity: "cosine", "inner_product" or "l2", without a spec.
        dim: The prefix to scan without a spec; None for half the width, at most 128.
        dtype: "float16" halves the disk; "float32" keeps all digits.
        count: How many vectors there will be where blocks are given; for its progress, and for room on the
            disk.
        seed: Of what is drawn.

    Raises:
        UserError: For vectors or options that `AdaptiveIndex.build` refuses, where nothing keeps the recall,
            where the folder holds something else, and for a full disk. What is done by then stays, and the
            same call goes on.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r}", expected=f"one of {', '.join(DTYPES)}")
    if spec is not None:
        _check_spec(spec)
        similarity = spec.similarity
    check_similarity(similarity)
    promised = None if recall is None else Declared(recall, k, similarity=similarity)
    if promised and queries is not None and len(queries) < promised.needed:
        raise promised.too_few(len(queries))
    folder = Path(folder)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with acquire(folder / LOCK, "builds the index"):
        remove_leftovers(folder)
        asked: dict[str, Any] = {"similarity": similarity, "dtype": dtype, "dim": dim, "seed": seed}
        asked |= {"spec": None if spec is None else asdict(spec), "recall": recall, "k": k}
        build = _Build(folder, _Source(vectors, ids, count), spec, promised, queries, asked)
        return build.run()


def _check_spec(spec: IndexSpec) -> None:
    if len(spec.dims) != 1 or not spec.codes.startswith("IVF") or spec.rest:
        raise UserError(
            f"codes={spec.codes!r} of dims={list(spec.dims)} on disk",
            expected='one dim without its rest, and codes that begin with IVF, such as "IVF4096,PQ64x4fsr"',
        )


class _Source:
    """The vectors that are given, by blocks from any row on; `first` is the first block."""

    def __init__(self, vectors: Any, ids: NDArray[np.int64] | None, likely: int | None) -> None:
        self.vectors, self.ids, self.count = vectors, ids, None
        if hasattr(vectors, "shape"):
            self.count, self.first = len(vectors) if np.ndim(vectors) else 0, vectors[:ROWS]
        else:
            blocks = iter(vectors)
            self.first = np.asarray(next(blocks, np.empty((0, 0))))
            self.vectors = itertools.chain([self.first], blocks)
        if np.ndim(self.first) != 2 or not len(self.first):
            raise UserError(
                f"vectors of shape {np.shape(self.first)}", expected="(N, D) with at least 1 vector"
            )
        self.likely = self.count or likely or (0 if ids is None else len(ids))
        if ids is not None:
            self.ids = check_ids(ids, len(ids) if self.count is None else self.count)

    def blocks(self, first: int) -> Iterator[NDArray[Any]]:
        """Yield blocks (n, D) of at most ROWS rows from row `first` on."""
        if self.count is not None:
            for start in range(first, self.count, ROWS):
                yield np.asarray(self.vectors[start : start + ROWS])
            return
        passed = 0
        for block in self.vectors:
            rows = np.asarray(block)[max(0, first - passed) :]
            passed += len(block)
            for start in range(0, len(rows), ROWS):
                yield rows[start : start + ROWS]

    def numbers(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the ids of rows."""
        if self.ids is None:
            return np.arange(first, first + count)
        found = self.ids[first : first + count]
        if len(found) < count:
            raise UserError(f"{len(self.ids)} ids for more vectors", expected="an id for each")
        return found


class _Build:
    """One build; `note` is what building.json holds of it."""

    def __init__(
        self,
        folder: Path,
        source: _Source,
        spec: IndexSpec | None,
        promised: Declared | None,
        queries: NDArray[np.float32] | None,
        asked: dict[str, Any],
    ) -> None:
        self.folder, self.source, self.spec = folder, source, spec
        self.promised, self.queries, self.asked = promised, queries, asked
        self.note = self._noted()

    def run(self) -> DiskIndex:
        """Copy, train, encode, choose; return the index, open."""
        if not self.note["whole"]:
            self._copy()
        index = self._encoded(self._trained())
        if self.promised is not None:
            self._promise(index)
        codes = CODES
        if len(self.held_out):
            codes = "codes-2.faiss"  # what the first holds tells where an interrupted build goes on
            index.insert(self.held_out)
            lists = index.shortlists[index.spec.dims[0]]
            set_effort(lists, self.family.spec.effort)  # of the chosen one the description tells
            write_faiss(lists, self.folder / codes)
            set_effort(lists, index.spec.effort)
        index.first_version(codes)
        for name in (BUILDING, TRAINED):
            remove_quietly(self.folder / name)
        return index

    def _noted(self) -> dict[str, Any]:
        """Return how far an earlier call has come, that of the same vectors and options."""
        if (self.folder / DESCRIBED).exists():
            raise UserError(
                f"{self.folder} holds an index already",
                expected="a folder without one",
                remedy="open it: AdaptiveIndex.on_disk(folder); or choose another folder",
            )
        first = self.source.first
        self._scanned(first.shape[1])
        begin = hashlib.sha256(np.ascontiguousarray(first[:1000]).tobytes()).hexdigest()[:16]
        ours = {**self.asked, "count": self.source.count, "width": first.shape[1], "begins": begin}
        if self.spec is not None and self.spec.width > first.shape[1]:
            raise UserError(
                f"an index that uses {self.spec.width} features of embeddings of width {first.shape[1]}",
                expected=f"dims up to {first.shape[1]}",
            )
        path = self.folder / BUILDING
        if not path.exists():
            others = [one.name for one in self.folder.iterdir() if one.name != LOCK]
            if others:
                raise UserError(f"{self.folder} holds other files, such as {others[0]}", remedy=REMEDY)
            row = first.shape[1] * np.dtype(self.asked["dtype"]).itemsize + 8
            require_space(self.folder, self.source.likely * (row + 64))
            write_json(path, {"of": ours, "copied": 0, "whole": False})
        note = read_object(path, REMEDY)
        there = note.get("of")
        if there != _read_back(ours):
            differing = [key for key in ours if not isinstance(there, dict) or there.get(key) != ours[key]]
            raise UserError(
                f"{self.folder} holds an unfinished index of other vectors or options "
                f"({', '.join(differing) or 'unknown'})",
                remedy=f"repeat the call that began it; or {REMEDY}",
            )
        return note

    def _write_note(self, **changes: Any) -> None:
        self.note |= changes
        write_json(self.folder / BUILDING, self.note)

    def _copy(self) -> None:
        """Copy vectors and ids from where an earlier call has stopped."""
        width, done = self.note["of"]["width"], self.note["copied"]
        similarity, dtype = self.asked["similarity"], self.asked["dtype"]
        rows = Appended(self.folder / vectors_name(1), dtype, (width,), done)
        numbers = Appended(self.folder / ids_name(1), np.int64, (), done)
        try:
            total = max(0, -(-(self.source.likely - done) // ROWS))
            for block in tracked(self.source.blocks(done), "copying vectors", total):
                name = f"vectors from row {rows.count} on"
                checked = checked_vectors(block, name, width)
                check_range(checked, [self._scanned(width), width], similarity, name)
                ids = self.source.numbers(rows.count, len(checked))
                rows.append(as_stored(checked, similarity, dtype))
                numbers.append(ids)
                self._write_note(copied=rows.count)
        except BaseException:
            rows.close(whole=False)
            numbers.close(whole=False)
            raise
        if self.source.ids is not None and len(self.source.ids) != rows.count:
            raise UserError(f"{len(self.source.ids)} ids for {rows.count} vectors", expected="an id for each")
        rows.close(whole=True)
        numbers.close(whole=True)
        self._write_note(whole=True)

    def _scanned(self, width: int) -> int:
        if self.spec is not None:
            return self.spec.dims[0]
        if self.asked["dim"] is not None and not 1 <= self.asked["dim"] <= width:
            raise UserError(f"dim={self.asked['dim']}", expected=f"a dim from 1 to {width}")
        return int(self.asked["dim"] or min(max(1, width // 2), 128))

    @cached_property
    def rows(self) -> Stacked:
        """The copied vectors (N, D)."""
        return Stacked([Part(self.folder / vectors_name(1))], np.float32)

    @cached_property
    def family(self) -> Family:
        """What is built, and the settings among which a declared recall chooses."""
        count, width = self.rows.shape
        k = self.promised.k if self.promised else self.asked["k"]
        if self.spec is None:
            return large_family(count, self._scanned(width), width, k, self.asked["similarity"])
        lists = (lists_of(self.spec.codes) or [1])[0]
        likely = large_family(count, self.spec.dims[0], width, k, self.spec.similarity, lists)
        return replace(likely, spec=self.spec)

    @cached_property
    def held_out(self) -> NDArray[np.int64]:
        """Rows that test a declared recall: neither trained on, nor found until they have tested."""
        if self.promised is None or self.queries is not None:
            return np.empty(0, np.int64)
        count = len(self.rows)
        wanted = min(count // SPARED, max(ENOUGH // 3, TIMES * self.promised.needed))
        if wanted < self.promised.needed:
            raise self.promised.too_few(wanted)
        random = np.random.default_rng(self.asked["seed"])
        return np.sort(random.choice(count, wanted, replace=False))

    def _indexed(self) -> NDArray[np.bool_]:
        """Return (N,) True where a row is not held out."""
        keep = np.ones(len(self.rows), bool)
        keep[self.held_out] = False
        return keep

    def _trained(self) -> Any:
        """Return the index with its lists and codes, without vectors."""
        path = self.folder / TRAINED
        if path.exists():
            return faiss.read_index(str(path))
        spec = self.family.spec
        lists = (lists_of(spec.codes) or [1])[0]
        rows, most = np.flatnonzero(self._indexed()), max(LEAST_SAMPLED, SAMPLED * lists)
        if len(rows) > most:
            random = np.random.default_rng([self.asked["seed"], 1])
            rows = np.sort(random.choice(rows, most, replace=False))
        sample = np.empty((len(rows), spec.dims[0]), np.float32)
        for start in tracked(range(0, len(rows), ROWS), "reading a sample", -(-len(rows) // ROWS)):
            part = rows[start : start + ROWS]
            sample[start : start + len(part)] = self.rows[part, : spec.dims[0]]
        index = trained_shortlist(compared(sample, spec.dims[0], spec.similarity), spec, spec.dims[0])
        write_faiss(index, path)
        return index

    def _encoded(self, empty: Any) -> DiskIndex:
        """Return the index of all rows but those held out."""
        spec, path = self.family.spec, self.folder / CODES
        count, last = len(self.rows), monotonic()
        keep = self._indexed()
        codes, done = empty, 0
        if path.exists():
            codes = faiss.read_index(str(path))
            done = int(np.searchsorted(np.cumsum(keep), codes.ntotal)) + 1  # blocks are noted whole
            done = min(-(-done // ROWS) * ROWS, count)
        starts = range(done, count, ROWS)
        for start in tracked(starts, "encoding", len(starts)):
            rows = np.flatnonzero(keep[start : start + ROWS]) + start
            block = self.rows[start : start + ROWS][rows - start]
            extend_shortlist(codes, block, rows, spec.similarity)
            if monotonic() - last > NOTED or start == starts[-1]:
                write_faiss(codes, path)
                last = monotonic()
        set_effort(codes, spec.effort)
        described = Described(0, spec, self.asked["dtype"], (1,), CODES, count)
        numbers: Any = Stacked([Part(self.folder / ids_name(1))], np.int64)
        vectors: Any = self.rows
        lists: Any = {spec.dims[0]: codes}
        return DiskIndex(
            spec,
            vectors,
            numbers,
            lists,
            folder=self.folder,
            described=described,
        )

    def _promise(self, index: DiskIndex) -> None:
        """Choose effort and stages that keep the declared recall, and have the index declare it."""
        promised, held = self.promised, self.held_out
        assert promised is not None
        given = self.queries is not None
        asked = (
            self.rows[held] if self.queries is None else checked_vectors(self.queries, "queries", index.width)
        )
        whole = (asked, index.vectors, promised.k, promised.similarity, None if given else self._indexed())
        exact = exact_neighbours(*whole, block=ROWS)
        budget = Budget(max_loss=1 - promised.recall, confidence=promised.confidence)
        quality, binary = share_found(exact), promised.k == 1
        # By the thread's own time, so that what else runs here changes no choice.
        tuner = _Built(asked, exact, quality, budget, 1, binary, clock=thread_time, index=index)
        try:
            tuned = tuner.choose(np.empty((0, 0), np.float32), [self.family])
        except UserError as error:
            raise UserError(
                f"no effort and shortlist of {index.spec.codes} is shown to keep recall={promised.recall:g}",
                expected=f"a lower recall ({error.expected})",
                remedy=f"scan more features in a new folder: dim={2 * index.spec.dims[0]}",
            ) from error
        usual = figures(asked, exact.similarities[:, -1], index.spec.dims[0])
        rows = np.full(len(asked), -1) if given else held
        declared = (promised.recall, promised.k, promised.confidence, asked, rows)
        index.promise = Promise(*declared, tuned.kept_settings, Watch(usual))


@dataclass(frozen=True)
class _Built(Tuner):
    """A tuner of an index that is built already."""

    index: AdaptiveIndex | None = None

    def build(self, database: NDArray[np.float32], family: Family) -> AdaptiveIndex:
        """Return that index."""
        del database, family
        assert self.index is not None
        return self.index


def _read_back(value: dict[str, Any]) -> Any:
    """Return what JSON makes of an object."""
    return json.loads(json.dumps(value))
