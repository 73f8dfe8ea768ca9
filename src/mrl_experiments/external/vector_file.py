"""Reading vectors, with labels and ids where there are any: NumPy, safetensors, Parquet and Arrow files."""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from mrl_experiments.data.splits import split_of
from mrl_experiments.errors import UserError, said
from mrl_experiments.external.arrow_tables import (
    ARROW,
    EMBEDDINGS,
    IDS,
    LABELS,
    PARQUET,
    TEXTS,
    check_inflation,
    first_of,
    named,
    read_column,
    read_matrices,
    read_tables,
)
from mrl_experiments.files import read_object, read_text
from mrl_experiments.stored import shown

SAFETENSORS = ".safetensors"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class VectorFile:
    """What one file, or a folder of parts, holds.

    Attributes:
        features: (N, D) numbers of any type, perhaps a memory map.
        labels: (N,) integers or strings, or None.
        files: Those that were read, all inside `root`.
        ids: (N,) strings, or None: how the relevance of documents names the rows.
    """

    features: NDArray[Any]
    labels: NDArray[Any] | None
    files: tuple[Path, ...]
    root: Path
    ids: NDArray[np.str_] | None = None


def read_vectors(path: Path) -> VectorFile:
    """Read a file of embeddings, or a folder of Parquet or Arrow parts.

    Labels and ids are columns or arrays of the file, or lie beside it: of x.npy in x.labels.npy, and in
    x.ids.npy or, an id per line, x.ids.txt. Sizes that a file declares are compared with its own before
    memory is taken; nothing in it is executed.

    Raises:
        UserError: If it is none, is damaged, has null or short rows (with the row), or if
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
        found = _read_folder(path) if path.is_dir() else _with_those_beside(READERS[path.suffix](path), path)
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
        elif path.suffix in (".npy", SAFETENSORS):
            raise UserError(f"{path} has no texts", expected="a table, or a .npz file with texts")
        else:
            texts = read_column(_parts(path) if path.is_dir() else [path], TEXTS)
        return [str(texts[row]) for row in rows]


def read_matrix(path: Path, names: tuple[str, ...] = EMBEDDINGS) -> NDArray[Any]:
    """Return vectors (N, D) alone, a memory map where the file allows it: .npy, and Arrow files of one batch.

    Args:
        path: What `read_vectors` reads.
        names: Other arrays of a .npz file, or columns of a table, of which the first that is there is read.

    Raises:
        UserError: As `read_vectors`, and if none is there.
    """
    if names == EMBEDDINGS:
        return np.asarray(read_vectors(path).features)
    with _reading(path):
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                there = [name.removesuffix(".npy") for name in archive.namelist()]
                found = _member(archive, f"{named(there, names, path)}.npy", path)
        else:
            found = read_matrices(_parts(path) if path.is_dir() else [path], path, names)
    _check_matrix(found, path)
    return found


def read_labels(path: Path) -> NDArray[Any]:
    """Return labels (N,), integers or strings: a .npy file of them, or those of a file of embeddings.

    Raises:
        UserError: If it has none.
    """
    if path.suffix == ".npy" and path.is_file():
        with _reading(path):
            labels: NDArray[Any] | None = _checked_npy(path)
    else:
        labels = read_vectors(path).labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise UserError(f"{path} holds no labels", expected="(N,) integers or strings")
    return labels


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
    """Return where the labels of a file without any lie, if it has some."""
    return path.with_suffix(".labels.npy")


def _with_those_beside(found: VectorFile, path: Path) -> VectorFile:
    """Add labels and ids that lie in files beside the vectors."""
    labels, ids = labels_beside(path), path.with_suffix(".ids.npy")
    lines = ids.with_suffix(".txt")
    if found.labels is None and labels.is_file():
        found = replace(found, labels=_checked_npy(labels), files=(*found.files, labels))
    if found.ids is None and ids.is_file():
        found = replace(found, ids=_checked_npy(ids).astype(str), files=(*found.files, ids))
    elif found.ids is None and lines.is_file():
        found = replace(found, ids=np.array(read_text(lines).splitlines()), files=(*found.files, lines))
    return found


def _checked_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, path)
    return np.asanyarray(np.load(path, mmap_mode=mmap_mode))


def _read_npy(path: Path) -> VectorFile:
    return VectorFile(_checked_npy(path, "r"), None, (path,), path.parent)


def _read_npz(path: Path) -> VectorFile:
    with zipfile.ZipFile(path) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        features = _member(archive, f"{named(there, EMBEDDINGS, path)}.npy", path)
        labels, ids = (
            _member(archive, f"{name}.npy", path) if (name := first_of(there, names)) else None
            for names in (LABELS, IDS)
        )
    return VectorFile(features, labels, (path,), path.parent, None if ids is None else ids.astype(str))


class _Tensor:
    """A matrix in a safetensors file, of which rows are read when they are asked for; bfloat16 as float32."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.shape, self.ndim = tuple(stored.get_shape()), len(stored.get_shape())
        self.dtype = self[:0].dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        part = self._stored[rows]
        return np.asarray(part.float() if part.dtype == torch.bfloat16 else part)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def _read_safetensors(path: Path) -> VectorFile:
    with safe_open(path, "pt") as file:
        there = list(file.keys())
        name = first_of(there, EMBEDDINGS) or (
            there[0] if len(there) == 1 else named(there, EMBEDDINGS, path)
        )
        features: Any = _Tensor(file.get_slice(name))
        label = first_of(there, LABELS)
        labels = file.get_tensor(label).numpy() if label else None
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
    return _table(files, folder)


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


def _table(files: Sequence[Path], root: Path) -> VectorFile:
    features, labels, ids = read_tables(files, root)
    return VectorFile(features, labels, tuple(files), root, ids)


def _is_part(path: Path) -> bool:
    """Return whether a path inside a folder is that of a part; hidden ones, _SUCCESS and the like are not."""
    return path.suffix in (*PARQUET, *ARROW) and not any(name[0] in "._" for name in path.parts)


def _read_table(path: Path) -> VectorFile:
    return replace(_table([path], path), root=path.parent)


READERS: dict[str, Callable[[Path], VectorFile]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    SAFETENSORS: _read_safetensors,
    **dict.fromkeys((*PARQUET, *ARROW), _read_table),
}


def _check(found: VectorFile, path: Path) -> None:
    features, labels, ids = found.features, found.labels, found.ids
    _check_matrix(features, path)
    if ids is not None and ids.shape != (len(features),):
        raise UserError(
            f"{path}: {len(features)} embeddings and {ids.size} ids", expected="an id for each row"
        )
    if labels is None:
        return
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


def _check_matrix(features: NDArray[Any], path: Path) -> None:
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: embeddings of shape {features.shape} and type {features.dtype}",
            expected="(N, D), a row of real numbers for each sample",
        )
