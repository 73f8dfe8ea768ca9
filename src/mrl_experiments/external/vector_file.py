"""Reading vectors with their labels: .npy, .npz, Parquet and Arrow files, and folders of them."""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.splits import split_of
from mrl_experiments.errors import UserError, said
from mrl_experiments.external.arrow_tables import (
    ARROW,
    EMBEDDINGS,
    LABELS,
    PARQUET,
    TEXTS,
    check_inflation,
    named,
    read_column,
    read_tables,
)
from mrl_experiments.files import read_object
from mrl_experiments.stored import shown

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class VectorFile:
    """What one file, or a folder of parts, holds.

    Attributes:
        features: (N, D) numbers of any type, perhaps a memory map.
        labels: (N,) integers or strings.
        files: Those that were read, all inside `root`.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    files: tuple[Path, ...]
    root: Path


def read_vectors(path: Path) -> VectorFile:
    """Read a file of embeddings, or a folder of Parquet or Arrow parts; labels of x.npy lie in x.labels.npy.

    Sizes that a file declares are compared with its own before memory is taken; nothing in it is executed.

    Raises:
        UserError: If it is none, is damaged, lacks labels, has null or short rows (with the row), or if
            shapes, lengths or types do not fit.
    """
    if not path.is_dir() and path.suffix not in READERS:
        raise UserError(
            f"{path} is not a file of embeddings",
            expected=f"a name in {', '.join(READERS)}, or a folder of Parquet or Arrow files",
        )
    if not path.exists():
        raise UserError(f"{path} does not exist", expected="a file of embeddings")
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"{path} is neither a file nor a folder", expected="a file of embeddings")
    with _reading(path):
        found = _read_folder(path) if path.is_dir() else READERS[path.suffix](path)
    _check(found, path)
    return found


def read_texts(path: Path, rows: Sequence[int]) -> list[str]:
    """Return the texts of some rows of a file of embeddings, from the first of TEXTS that it has.

    Raises:
        UserError: If it has none, or fewer rows.
    """
    with _reading(path):
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                there = [name.removesuffix(".npy") for name in archive.namelist()]
                texts: Any = _member(archive, f"{named(there, TEXTS, path)}.npy", path)
        elif path.suffix == ".npy":
            raise UserError(f"{path} has no texts", expected="a table, or a .npz file with texts")
        else:
            texts = read_column(_parts(path) if path.is_dir() else [path], TEXTS)
        return [str(texts[row]) for row in rows]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what readers raise of damaged files, which is nearly anything, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} cannot be read: {shown(said(error))}",
            expected="numbers and, for labels, integers or strings (.astype(str) where they are objects)",
        ) from error


def labels_beside(path: Path) -> Path:
    """Return where the labels of a .npy file lie."""
    return path.with_suffix(f".labels{path.suffix}")


def _read_npy(path: Path) -> VectorFile:
    beside = labels_beside(path)
    if not beside.is_file():
        raise UserError(
            f"{path} has no labels beside it",
            expected=f"{beside}, one label for each row",
            remedy=f"np.save({beside.name!r}, labels), or np.savez(..., embeddings=..., labels=...)",
        )
    for part in (path, beside):
        with part.open("rb") as file:
            _check_header(file, part.stat().st_size, part)
    return VectorFile(np.load(path, mmap_mode="r"), np.load(beside), (path, beside), path.parent)


def _read_npz(path: Path) -> VectorFile:
    with zipfile.ZipFile(path) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        features, labels = (
            _member(archive, f"{named(there, names, path)}.npy", path) for names in (EMBEDDINGS, LABELS)
        )
    return VectorFile(features, labels, (path,), path.parent)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    info = archive.getinfo(name)
    check_inflation(info.file_size, min(info.compress_size, path.stat().st_size), path)
    with archive.open(info) as file:
        _check_header(file, info.file_size, path)
    with archive.open(info) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _check_header(file: IO[bytes], size: int, path: Path) -> None:
    """Raise UserError where the header of a .npy of `size` bytes declares objects, or more than is there."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise UserError(f"{path} is a NumPy file of version {version}", expected="versions 1.0 and 2.0")
    shape, _, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise UserError(
            f"{path} holds Python objects, which are not loaded: they could run any code",
            expected="arrays of numbers, and of integers or strings for labels",
            remedy="save them as such, for example labels.astype(str)",
        )
    declared, there = dtype.itemsize * math.prod(shape), size - file.tell()
    if min(shape, default=0) < 0 or declared > there:
        raise UserError(
            f"{path} declares an array of shape {shape}, {declared:,} bytes, and holds {there:,}",
            expected="a whole file",
            remedy="copy or save it again",
        )


def _read_folder(folder: Path) -> VectorFile:
    files = _parts(folder)
    return VectorFile(*read_tables(files, folder), tuple(files), folder)


def _parts(folder: Path) -> list[Path]:
    """Return the parts of a folder as Spark and others write it, or as `datasets` saves it to disk."""
    if (folder / "dataset_dict.json").exists():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise UserError(
            f"{folder} holds the splits {', '.join(splits) or '(none)'}",
            expected="one of them",
            remedy=f"name it: {folder / splits[0]}" if splits else "",
        )
    if (folder / "state.json").exists():
        stored = read_object(folder / "state.json").get("_data_files", [])
        files = [folder / Path(str(part["filename"])).name for part in stored]
    else:
        inside = (path for path in folder.rglob("*") if path.is_file())
        files = sorted(path for path in inside if _is_part(path.relative_to(folder)))
    if not files or len({path.suffix in ARROW for path in files}) > 1:
        there = sorted(path.name for path in folder.iterdir())[:5]
        raise UserError(
            f"{folder} holds {', '.join(there) or 'nothing'}",
            expected="Parquet or Arrow files of one kind: a folder of Spark, or of datasets' save_to_disk",
        )
    _refuse_splits(files, folder)
    return files


def _refuse_splits(files: Sequence[Path], folder: Path) -> None:
    """Raise UserError where the names of parts, or of folders that hold them, say different splits."""
    names = {path: path.relative_to(folder).parts for path in files}
    first = {split: path for path in reversed(files) for name in names[path] if (split := split_of(name))}
    if len(first) > 1:
        raise UserError(
            f"{folder} holds parts of the splits {', '.join(sorted(first))}, such as "
            f"{', '.join('/'.join(names[first[split]]) for split in sorted(first))}",
            expected="parts of one split",
            remedy="move the parts of each split to a folder of their own and name it, or name one file",
        )


def _is_part(path: Path) -> bool:
    """Return whether a path inside a folder is that of a part; hidden ones, _SUCCESS and the like are not."""
    return path.suffix in (*PARQUET, *ARROW) and not any(name[0] in "._" for name in path.parts)


def _read_table(path: Path) -> VectorFile:
    return VectorFile(*read_tables([path], path), (path,), path.parent)


READERS: dict[str, Callable[[Path], VectorFile]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    **dict.fromkeys((*PARQUET, *ARROW), _read_table),
}


def _check(found: VectorFile, path: Path) -> None:
    features, labels = found.features, found.labels
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: embeddings of shape {features.shape} and type {features.dtype}",
            expected="(N, D), a row of real numbers for each sample",
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: labels of shape {labels.shape} and type {labels.dtype}",
            expected="(N,) integers or strings",
        )
    if len(labels) != len(features):
        raise UserError(
            f"{path}: {len(features)} embeddings and {len(labels)} labels", expected="one label for each row"
        )
    if labels.dtype.kind == "u" and labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{path}: a label {labels.max()}", expected="integers of 64 bits with a sign")
