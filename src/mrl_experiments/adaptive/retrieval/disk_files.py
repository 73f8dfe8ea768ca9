"""The folder of an index on disk: what its description says, and how it grows so that readers see a whole."""

import errno
import io
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.stacked import Part
from mrl_experiments.errors import UserError, said
from mrl_experiments.files import (
    atomic_path,
    explain_os_errors,
    fingerprint,
    read_object,
    remove_leftovers,
    remove_quietly,
    require_unchanged,
    write_json,
)

DESCRIBED, BUILDING, TRAINED = "index.json", "building.json", "trained.faiss"
LOCK = ".lock"
VERSION = 2  # 1 is what `storage` saves of an index in memory
REMEDY = "build the index again, in another folder"
NAMES = {"codes": r"codes-\d+\.faiss", "deleted": r"deleted-\d+\.npy", "promised": r"promised-\d+\.npz"}
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Described:
    """One version of an index; a change writes further files and then the next version's description.

    Attributes:
        generation: Of this version; each change adds one.
        spec: What is scanned, and how.
        dtype: Of the stored vectors.
        segments: The numbers of the files of vectors and ids, in order.
        codes: The name of the FAISS index.
        coded: How many of the first rows it holds; others are encoded when it is opened.
        deleted: The name of the file with the rows that are no longer found, None while there are none.
        promise: What `promise.Promise` declares, without its arrays; None without one.
        promised: The name of the file with these arrays.
        files: By name, what `files.fingerprint` noted.
    """

    generation: int
    spec: IndexSpec
    dtype: str
    segments: tuple[int, ...]
    codes: str
    coded: int
    deleted: str | None = None
    promise: Mapping[str, Any] | None = None
    promised: str | None = None
    files: Mapping[str, Mapping[str, Any]] | None = None

    def names(self) -> list[str]:
        """Return the files that belong to this version."""
        named = [name for number in self.segments for name in (vectors_name(number), ids_name(number))]
        return [self.codes, *named, *filter(None, (self.deleted, self.promised))]


def vectors_name(number: int) -> str:
    """Return the name of the file with the vectors of a segment."""
    return f"vectors-{number}.npy"


def ids_name(number: int) -> str:
    """Return the name of the file with the ids of a segment."""
    return f"ids-{number}.npy"


def is_on_disk(folder: Path) -> bool:
    """Return whether a folder holds an index on disk rather than a saved one, or none."""
    path = folder / DESCRIBED
    return path.exists() and read_object(path, REMEDY).get("version") == VERSION


def read_description(folder: Path) -> Described:
    """Return the newest version's description.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    if not (folder / DESCRIBED).exists():
        unfinished = (folder / BUILDING).exists()
        raise UserError(
            f"{folder} holds no complete index" + (": its building was interrupted" if unfinished else ""),
            remedy="repeat the call that built it, which goes on" if unfinished else REMEDY,
        )
    said_there = read_object(folder / DESCRIBED, REMEDY, version=VERSION)
    said_there.pop("version")
    try:
        spec, segments = IndexSpec(**said_there.pop("spec")), tuple(said_there.pop("segments"))
        described = Described(spec=spec, segments=segments, **said_there)
        if not _is_possible(described):
            raise ValueError("it names what cannot be")
        return described
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{folder / DESCRIBED} is damaged: {said(error)}", remedy=REMEDY) from error


def _is_possible(described: Described) -> bool:
    """Return whether a description is one that `publish` may have written; its files are another matter."""
    one, files = described, described.files
    numbers = (one.generation, one.coded, *one.segments)
    names = {"codes": one.codes, "deleted": one.deleted, "promised": one.promised}
    optional = [name for name in ("deleted", "promised") if names[name] is None]
    return (
        one.dtype in DTYPES
        and len(one.spec.dims) == 1
        and len({*one.segments}) == len(one.segments) > 0
        and all(type(number) is int and number >= 0 for number in numbers)
        and all(re.fullmatch(NAMES[name], str(names[name])) for name in NAMES if name not in optional)
        and isinstance(files, dict)
        and all(isinstance(noted, dict) for noted in files.values())
        and (one.promise is None) == (one.promised is None)
    )


def check_files(folder: Path, described: Described) -> None:
    """Raise UserError unless all files of a version are there as they were written."""
    noted = described.files or {}
    for name in described.names():
        require_unchanged(folder / name, noted.get(name, {"sha256": "not noted"}), REMEDY)


def publish(folder: Path, described: Described) -> Described:
    """Make a version whose files are written the newest; files of no version go.

    Processes that have the earlier one open keep its files until they close them.
    """
    earlier = described.files or {}
    files = {name: earlier.get(name) or fingerprint(folder / name) for name in described.names()}
    described = replace(described, files=files)
    write_json(folder / DESCRIBED, {"version": VERSION, **asdict(described)})
    remove_others(folder, described)
    return described


def remove_others(folder: Path, described: Described) -> None:
    """Remove files that this version does not name: of earlier ones, and of writers that were killed."""
    remove_leftovers(folder)
    kept = set(described.names())
    for pattern in ("vectors-*.npy", "ids-*.npy", "codes-*.faiss", "deleted-*.npy", "promised-*.npz"):
        for path in folder.glob(pattern):
            if path.name not in kept:
                remove_quietly(path)


def open_parts(folder: Path, described: Described) -> tuple[list[Part], list[Part]]:
    """Return the vectors and the ids of each segment.

    Raises:
        UserError: If their shapes or types are not what belongs together.
    """
    vectors = [Part(folder / vectors_name(number)) for number in described.segments]
    ids = [Part(folder / ids_name(number)) for number in described.segments]
    for part, names in zip(vectors, ids, strict=True):
        rows, numbers = part.rows, names.rows
        if rows.ndim != 2 or rows.dtype != described.dtype or rows.shape[1] < described.spec.width:
            raise UserError(
                f"{part.path} holds {rows.dtype} of the shape {rows.shape}",
                expected=f"{described.dtype} of at least {described.spec.width} features",
                remedy=REMEDY,
            )
        if numbers.shape != (len(rows),) or numbers.dtype != np.int64:
            raise UserError(f"{names.path} does not fit {part.path.name}", remedy=REMEDY)
    return vectors, ids


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).view(np.uint8).data)  # np.save hides why a disk refuses


def write_faiss(index: Any, path: Path) -> None:
    """Write a FAISS index, whole or not at all.

    Raises:
        UserError: Also where the disk is full, which FAISS tells in words of its own.
    """
    with atomic_path(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            number = errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


class Appended:
    """A .npy file (N, ...) that grows; what a killed process has written beyond `count` rows is cut off.

    Args:
        path: The file, made where it is missing.
        dtype: Of its numbers.
        row: The shape of a row.
        count: How many rows are kept.
    """

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...], count: int) -> None:
        self.path, self.dtype, self.row, self.count = path, np.dtype(dtype), row, count
        with explain_os_errors(path):
            self._file = path.open("r+b" if path.exists() else "w+b")
            self._file.write(self._header(0))
            self._file.truncate(self._end())
            self._file.seek(self._end())

    def _end(self) -> int:
        return len(self._header(0)) + self.count * self.dtype.itemsize * int(np.prod(self.row))

    def _header(self, count: int) -> bytes:
        """Return the header, which NumPy makes of one length whatever the number of rows."""
        header = io.BytesIO()
        said = {"descr": self.dtype.str, "fortran_order": False, "shape": (count, *self.row)}
        np.lib.format.write_array_header_1_0(header, said)
        return header.getvalue()

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows (n, ...), and wait until the disk has them."""
        with explain_os_errors(self.path):
            self._file.write(np.ascontiguousarray(rows, self.dtype).view(np.uint8).data)
            self._file.flush()
            os.fdatasync(self._file.fileno())
        self.count += len(rows)

    def close(self, *, whole: bool) -> None:
        """Close the file; where it is `whole`, its header then says how many rows it has."""
        with explain_os_errors(self.path):
            if whole:
                self._file.seek(0)
                self._file.write(self._header(self.count))
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
