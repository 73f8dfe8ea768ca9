"""What every engine answers: a collection is made, filled by ranges of ids, searched in one or two stages."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments import packages
from mrl_experiments.adaptive.retrieval.spec import check_whole
from mrl_experiments.embeddings import check_finite
from mrl_experiments.engines.payload import FLAG, FLOAT, INT, TEXT
from mrl_experiments.engines.source import Block, Source
from mrl_experiments.errors import UserError, said
from mrl_experiments.progress import progress

BYTES = 1 << 25  # of vectors that are written at once
LARGEST_HALF = 65_504.0
ROUNDED = 1e-3  # of a vector, by which its float16 may differ from it
MARK = "mrl_experiments"  # under which a collection keeps what it holds
PASSWORD = re.compile(r"(://[^:@/?#]*:)(.*)@")
SECRET = re.compile(
    r"((?:password|passwd|token|api_?key|secret)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE
)
PORT = re.compile(r"\d+[/?#]")  # which is no password, though an @ may follow
MEANING = re.compile(r"[@/?#:\s]|%(?![0-9A-Fa-f]{2})")
Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Filter = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """What a collection is made of, kept with it and compared before anything is written.

    Attributes:
        rows: N; ids are 0 to N - 1, the places of the vectors in their source.
        width: D.
        prefix: The first dims, by which shortlists are found.
        similarity: "cosine", "inner_product" or "l2".
        index: Over the prefixes: "exact", a scan; "hnsw"; "ivf".
        half: Vectors are float16.
        binary: The index has a bit for each dim.
        columns: The kind of each column, by name.
        digest: Of the content.
        sample: Of some rows of the vectors; see `sample_digest`.
    """

    rows: int
    width: int
    prefix: int
    similarity: str
    index: str
    half: bool
    binary: bool
    columns: Mapping[str, str]
    digest: str
    sample: str

    @classmethod
    def read(cls, stored: Any, place: str, remedy: str) -> "Shape":
        """Return what a collection says of itself, JSON text or what that holds.

        Raises:
            UserError: If it is not one of ours.
        """
        with suppress(ValueError):
            stored = json.loads(stored) if isinstance(stored, str | bytes) else stored
        if not isinstance(stored, dict) or stored.keys() != {field.name for field in fields(cls)}:
            raise UserError(
                f"{place} is there and was not written by export.py",
                expected="a new collection, or one that export.py has made",
                remedy=remedy,
            )
        return cls(**stored)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of ids that are written at once."""
        step = max(256, BYTES // (4 * self.width))
        return [(start, min(start + step, self.rows)) for start in range(0, self.rows, step)]

    def stored(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def differing(self, other: "Shape") -> list[str]:
        """Return what another one says otherwise, as `width=512, not 64`."""
        pairs = [
            (field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        ]
        shapes = [
            f"{name}={theirs}, not {ours}"
            for name, ours, theirs in pairs
            if ours != theirs and name not in ("digest", "sample")
        ]
        return shapes or (["other content"] if self.digest != other.digest else [])


class Engine(ABC):
    """One collection of an engine.

    Attributes:
        place: How messages call it.
        faults: What the engine raises.
        files: It is a folder of files, which may be replaced.
        other: What to do where the collection is another one.
    """

    place: str
    faults: tuple[type[BaseException], ...]
    files = False
    other = "choose another: collection=<name>; or remove that one with the engine's own tools"
    _shape: Shape | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def stored(self) -> Any:
        """Return what the collection keeps of its shape, JSON text or what that holds; None without one."""

    @abstractmethod
    def create(self, source: Source, shape: Shape) -> None:
        """Make the collection, empty."""

    @abstractmethod
    def count(self, start: int, stop: int) -> int:
        """Return how many rows have ids from start to stop - 1."""

    @abstractmethod
    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a range of ids; `some` of its rows may be there and are replaced."""

    def finish(self, shape: Shape) -> bool:
        """Build what speeds up searches, and return whether there was something to do."""
        return False

    @abstractmethod
    def find(
        self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter
    ) -> Sequence[Sequence[int]] | Ids:
        """Return the ids of the nearest, a row for each query, of what `search` has checked."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    def lock(self) -> AbstractContextManager[Any]:
        """Return what a command holds while it writes; by default several may write at once."""
        return nullcontext()

    def shape(self) -> Shape | None:
        """Return what the collection holds, or None where there is none.

        Raises:
            UserError: If it is not one of ours.
        """
        if self._shape is None and (stored := self.stored()) is not None:
            self._shape = Shape.read(stored, self.place, self.other)
        return self._shape

    def required(self) -> Shape:
        """Return the shape of a collection that is there."""
        shape = self.shape()
        if shape is None:
            raise UserError(f"{self.place} is not there", remedy="write it: export.py target=...")
        return shape

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what the engine raises as a UserError of one line."""
        try:
            yield
        except self.faults as error:
            raise UserError(
                f"{self.place}: {said(error)[:400]}",
                expected="an engine that can be reached and takes this",
                remedy="mend it and repeat the command: what is written already stays, and is not sent again",
            ) from error

    def search(
        self, queries: Vectors, k: int, shortlist: int | None = None, where: Filter | None = None
    ) -> Ids:
        """Return the ids (Q, k) of the nearest, -1 where there are fewer.

        Args:
            queries: (Q, D).
            k: How many.
            shortlist: How many are found by the index over prefixes and ranked anew by whole vectors; None
                for a scan of all whole vectors.
            where: Values that columns must have.

        Raises:
            UserError: For no collection, queries of another width or that point nowhere, a k that is no whole
                number from 1 up, a shortlist shorter than that, or a filter by what is no column or no value
                of one.
        """
        with self.explained():
            shape, given = self.required(), np.asarray(queries)
            if given.ndim != 2 or given.shape[1] != shape.width or given.dtype.kind not in "fiu":
                raise UserError(
                    f"queries of shape {given.shape}, {given.dtype}",
                    expected=f"(Q, {shape.width}), as in {self.place}",
                )
            vectors = np.ascontiguousarray(given, np.float32)
            check_finite(vectors, "queries", remedy="leave these queries out")
            if check_whole("k", k) > check_whole("shortlist", k if shortlist is None else shortlist):
                raise UserError(f"k={k}, shortlist={shortlist}", expected="a shortlist of at least k")
            if unknown := [name for name in where or {} if name not in shape.columns]:
                raise UserError(
                    f"where={unknown[0]}: no column of {self.place}",
                    expected=f"one of {', '.join(shape.columns) or 'none'}",
                )
            wanted = {name: _value(shape, name, one) for name, one in (where or {}).items()}
            return padded(self.find(shape, vectors, k, shortlist, wanted) if len(vectors) else [], k)

    def load(self, source: Source, shape: Shape, *, overwrite: bool = False) -> bool:
        """Write a source, but for the ranges of ids that are there; return whether there was something to do.

        Args:
            source: What is written.
            shape: What the collection is to be.
            overwrite: Of files, replace others, which stay until the new ones are whole.

        Raises:
            UserError: If a collection of another shape or content is there, or the engine fails.
        """
        if overwrite and not self.files:
            raise UserError(
                f"overwrite=true with {self.place}", expected="a target of files", remedy=self.other
            )
        with self.lock(), self.explained():
            there = self.shape()
            different = [] if there is None else shape.differing(there)
            if different and not overwrite:
                raise UserError(
                    f"{self.place} is there with {'; '.join(different)}",
                    expected="the same",
                    remedy=self.other,
                )
            if there is None or different:
                self.create(source, shape)
            wrote = self._write_missing(source, shape)
            return self.finish(shape) or wrote

    def _write_missing(self, source: Source, shape: Shape) -> bool:
        """Write the ranges of which rows are missing."""
        ranges = shape.ranges()
        total = self.count(0, shape.rows)
        if total == shape.rows:
            return False
        found = {part: self.count(*part) if total else 0 for part in ranges}
        missing = [part for part in ranges if found[part] != part[1] - part[0]]  # more: written twice
        rows = sum(stop - start for start, stop in missing)
        if total:
            print(f"{self.place}: {shape.rows - rows:,} rows are there already", flush=True)
        with progress(f"writing to {self.place}", rows) as advance:
            for part in missing:
                block = source.block(*part)
                if shape.half:
                    _check_half(block.vectors)
                self.write(block, shape, some=found[part] > 0)
                advance(part[1] - part[0])
        if (total := self.count(0, shape.rows)) != shape.rows:
            raise UserError(
                f"{self.place} has {total:,} rows, not {shape.rows:,}: another command writes to it too",
                remedy="when that one has ended, repeat this one",
            )
        return True


def _check_half(vectors: NDArray[np.float32]) -> None:
    """Refuse vectors of which float16 would leave too little."""
    if (largest := float(np.abs(vectors).max())) > LARGEST_HALF:
        raise UserError(
            f"half=true: there are values of {largest:.3g}",
            expected="values that float16 holds, up to 65,504",
        )
    lost = np.linalg.norm(vectors.astype(np.float16) - vectors, axis=1)
    if (few := lost > ROUNDED * np.linalg.norm(vectors.astype(np.float64), axis=1)).any():
        raise UserError(
            f"half=true: float16 rounds off {few.sum():,} of {len(vectors):,} vectors of small values",
            expected="values above 6e-5",
            remedy="scale all vectors alike, or leave half=true out",
        )


class TwoStepEngine(Engine):
    """An engine whose prefixes are a field; a shortlist is ranked anew by a filter on its ids."""

    @abstractmethod
    def nearest(
        self, shape: Shape, queries: Vectors, field: str, k: int, where: Filter, among: Ids | None = None
    ) -> list[list[int]]:
        """Return the ids of the nearest by a field, `among` some where given, with a row for each query."""

    def find(
        self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter
    ) -> list[list[int]]:
        """Return the ids of the nearest: one search, or two."""
        if shortlist is None:
            return self.nearest(shape, queries, "vector", k, where)
        prefixes = np.ascontiguousarray(queries[:, : shape.prefix])
        found = self.nearest(shape, prefixes, "prefix", shortlist, where)
        return [
            self.nearest(shape, query[None], "vector", k, {}, np.array(ids))[0] if ids else []
            for query, ids in zip(queries, found, strict=True)
        ]


def _value(shape: Shape, name: str, given: Any) -> Any:
    """Return a value of Python that a column may have."""
    value, kind = given.item() if isinstance(given, np.generic) else given, shape.columns[name]
    types: dict[str, tuple[type, ...]] = {INT: (int,), FLOAT: (int, float), TEXT: (str,), FLAG: (bool,)}
    fits = isinstance(value, types[kind]) and isinstance(value, bool) == (kind == FLAG)
    if fits and kind in (INT, FLOAT):
        fits = math.isfinite(value) and (kind == FLOAT or -(2**63) <= value < 2**63)
    if not fits:
        raise UserError(f"where={name}: {value!r:.80}", expected=f"one value of the kind {kind}")
    return value


def shown(uri: str) -> str:
    """Return an address without its password.

    Example:
        >>> shown("http://me:secret@host:19530"), shown("vectors.db")
        ('http://me:***@host:19530', 'vectors.db')
        >>> shown("host=localhost user=me password='se cret'"), shown("postgresql://host/db?password=secret")
        ('host=localhost user=me password=***', 'postgresql://host/db?password=***')
    """
    return SECRET.sub(r"\1***", PASSWORD.sub(r"\1***@", uri))


def check_address(uri: str) -> None:
    """Refuse an address whose password would be read for something else, and shown.

    Raises:
        UserError: Without that password.
    """
    found = PASSWORD.search(uri)
    if found and not PORT.match(found[2]) and MEANING.search(found[2]):
        raise UserError(
            f"uri={shown(uri)}: a password with signs that have a meaning in an address",
            expected="%40 for @, %2F for /, %3A for :, %3F for ?, %23 for #, %25 for %",
        )


def padded(found: Sequence[Sequence[int]] | Ids, k: int) -> Ids:
    """Return lists of ids as an array (Q, k), with -1 where there are fewer.

    Example:
        >>> padded([[3, 1], []], 2).tolist()
        [[3, 1], [-1, -1]]
    """
    ids = np.full((len(found), k), -1, np.int64)
    for row, some in enumerate(found):
        ids[row, : min(k, len(some))] = some[:k]
    return ids


def needed(name: str, target: str) -> Any:
    """Import a package of the extra `engines`; see `packages.needed`."""
    return packages.needed(name, f"target={target}", "engines")
