"""Reading vectors, with labels and ids: NumPy, safetensors, Parquet, Arrow, FAISS and LanceDB."""

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
    matrix_of,
    named,
    read_column,
    read_matrices,
    read_tables,
)
from mrl_experiments.external.spool import LARGE, Spool
from mrl_experiments.files import read_object, read_text
from mrl_experiments.stored import shown

SAFETENSORS, LANCE = ".safetensors", ".lance"
FAISS = (".faiss", ".index")
BLOCK = 8192  # rows
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
            expected=f"a name in {', '.join(READERS)}, or a folder of Parquet, Arrow or LanceDB",
        )
    if not path.exists():
        raise UserError(f"{path} does not exist", expected="a file of embeddings")
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"{path} is neither a file nor a folder", expected="a file of embeddings")
    with _reading(path):
        if path.is_dir():
            found = _read_lance(path) if path.suffix == LANCE else _table(_parts(path), path)
        else:
            found = _with_those_beside(READERS[path.suffix](path), path)
    _check(found, path)
    return found


def read_texts(path: Path, rows: Sequence[int]) -> list[str]:
    """Return the texts of some rows of a file of embeddings, from the first of TEXTS that it has.

    Raises:
        UserError: If it has none, or fewer rows.
    """
    with _reading(path):
        if path.suffix == ".npz":
            texts: Any = _member(path, TEXTS)
        elif path.suffix in (".npy", SAFETENSORS, LANCE, *FAISS):
            raise UserError(f"{path} has no texts", expected="a table, or a .npz file with texts")
        else:
            texts = read_column(_parts(path) if path.is_dir() else [path], TEXTS)
        return [str(texts[row]) for row in rows]


def read_matrix(path: Path, names: tuple[str, ...] = EMBEDDINGS) -> NDArray[Any]:
    """Return vectors (N, D) alone, which need not fit into memory.

    A memory map of .npy, of safetensors, of .npz without compression and of Arrow files of one batch; of
    large others one of a temporary file.

    Args:
        path: What `read_vectors` reads.
        names: Other arrays of a .npz file, or columns of a table, of which the first that is there is read.

    Raises:
        UserError: As `read_vectors`, and if none is there.
    """
    if names == EMBEDDINGS:
        return read_vectors(path).features
    with _reading(path):
        if path.suffix == ".npz":
            found = _member(path, names)
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
    labels, ids = (_member(path, names) if first_of(there, names) else None for names in (LABELS, IDS))
    features = _member(path, EMBEDDINGS)
    return VectorFile(features, labels, (path,), path.parent, None if ids is None else ids.astype(str))


class _Lazy:
    """A matrix of which rows are read when they are asked for."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


class _BFloat16(_Lazy):
    """A memory map (N, D) of bfloat16 numbers, which NumPy has no type for, read as float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self.shape = tensor, tuple(tensor.shape)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        return np.asarray(self._tensor[rows].float())


class _Index(_Lazy):
    """The vectors that a FAISS index holds, decoded where they are codes, after its own transformations."""

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path) -> None:
        import faiss

        self._whole = self._index = faiss.read_index(str(path))  # which owns all the others
        self.ids: NDArray[np.str_] | None = None
        while isinstance(self._index, faiss.IndexIDMap | faiss.IndexPreTransform):
            if isinstance(self._index, faiss.IndexIDMap):
                self.ids = faiss.vector_to_array(self._index.id_map).astype(str)
            self._index = faiss.downcast_index(self._index.index)
        if isinstance(self._index, faiss.IndexIVF):
            self._index.make_direct_map()
        self.shape = (self._index.ntotal, self._index.d)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        numbers = np.arange(len(self))[rows]
        if not numbers.size:
            return np.empty((0, self.shape[1]), np.float32)
        return np.asarray(self._index.reconstruct_batch(numbers.astype(np.int64)))


def _read_faiss(path: Path) -> VectorFile:
    index: Any = _Index(path)
    return VectorFile(index, None, (path,), path.parent, index.ids)


def _read_lance(folder: Path) -> VectorFile:
    """Read a table of LanceDB, which is a folder <name>.lance in that of its database."""
    try:
        import lancedb
    except ImportError as error:
        raise UserError(
            f"{folder}: tables of LanceDB need lancedb, which is not installed",
            remedy="pip install lancedb, or export the table to Parquet",
        ) from error
    table = lancedb.connect(folder.parent).open_table(folder.stem)
    there = table.schema.names
    name, spool, row = named(there, EMBEDDINGS, folder), Spool(folder), 0
    for batch in table.search().select([name]).to_batches(BLOCK):
        block = matrix_of(batch.column(name), folder, row)
        row += len(block)
        spool.add(block)
    found = [first_of(there, names) for names in (LABELS, IDS)]
    wanted = [column for column in found if column]
    others: Any = table.search().select(wanted).to_arrow() if wanted else None
    labels, ids = (None if column is None else np.asarray(others[column].to_pylist()) for column in found)
    files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    return VectorFile(spool.result(), labels, files, folder, None if ids is None else ids.astype(str))


def _read_safetensors(path: Path) -> VectorFile:
    with safe_open(path, "pt") as file:  # whose tensors are maps of the file
        there = list(file.keys())
        name = there[0] if len(there) == 1 else named(there, EMBEDDINGS, path)
        label = first_of(there, LABELS)
        labels = file.get_tensor(label).numpy() if label else None
        tensor = file.get_tensor(name)
    features: Any = _BFloat16(tensor) if tensor.dtype == torch.bfloat16 else tensor.numpy()
    return VectorFile(features, labels, (path,), path.parent)


def _member(path: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """Return the first of some arrays that a .npz file has.

    A large matrix is a map of the file, or of a temporary one where it is compressed.
    """
    with zipfile.ZipFile(path) as archive:
        name = named([name.removesuffix(".npy") for name in archive.namelist()], names, path)
        info = archive.getinfo(f"{name}.npy")
        check_inflation(info.file_size, min(info.compress_size, path.stat().st_size), path)
        with archive.open(info) as file:
            shape, by_columns, dtype = _check_header(file, info.file_size, path)
            start = file.tell()
            if info.file_size > LARGE and len(shape) == 2 and not by_columns:
                if info.compress_type == zipfile.ZIP_STORED:
                    return np.memmap(path, dtype, "r", _start_of(info, path) + start, shape)
                return _streamed(file, shape, dtype, path)
        with archive.open(info) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _start_of(info: zipfile.ZipInfo, path: Path) -> int:
    """Return where the bytes of a member begin: behind its own header, whose name and extra field vary."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    return info.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))


def _streamed(file: IO[bytes], shape: tuple[int, ...], dtype: Any, path: Path) -> NDArray[Any]:
    spool, row = Spool(path), shape[1] * dtype.itemsize
    for start in range(0, shape[0], BLOCK):
        count = min(BLOCK, shape[0] - start)
        content = file.read(count * row)
        spool.add(np.frombuffer(content, dtype).reshape(count, shape[1]))
    return spool.result()


def _check_header(file: IO[bytes], size: int, path: Path) -> tuple[tuple[int, ...], bool, Any]:
    """Return shape, whether columns are contiguous, and type of a .npy of `size` bytes.

    Raises:
        UserError: If it declares objects, or more than is there.
    """
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise UserError(f"{path} is a NumPy file of version {version}", expected="versions 1.0 and 2.0")
    shape, by_columns, dtype = HEADERS[version](file)
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
    return shape, by_columns and len(shape) > 1, dtype


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
    **dict.fromkeys(FAISS, _read_faiss),
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
