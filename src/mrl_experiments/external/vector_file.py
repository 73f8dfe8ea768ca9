"""Reading vectors with their labels from a file: .npy, .npz or Parquet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError

EMBEDDINGS = ("embeddings", "embedding", "features", "vectors", "vector")  # arrays or columns, first found
LABELS = ("labels", "label")


@dataclass(frozen=True)
class VectorFile:
    """What one file holds.

    features: (N, D) numbers of any type, perhaps a memory map. labels: (N,) integers or strings.
    files: those that were read.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    files: tuple[Path, ...]


def read_vectors(path: Path) -> VectorFile:
    """Read a file of embeddings; the labels of x.npy lie beside it in x.labels.npy.

    Raises UserError when the file is none, lacks labels, or shapes, lengths or types do not fit.
    """
    if path.suffix not in READERS:
        raise UserError(f"{path} is not a file of embeddings", expected=f"a name in {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{path} does not exist", expected="a file of embeddings")
    try:
        found = READERS[path.suffix](path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}",
            expected="numbers and, for labels, integers or strings (.astype(str) where they are objects)",
        ) from error
    _check(found, path)
    return found


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
    return VectorFile(np.load(path, mmap_mode="r"), np.load(beside), (path, beside))


def _read_npz(path: Path) -> VectorFile:
    with np.load(path) as stored:
        features, labels = (stored[_named(stored.files, names, path)] for names in (EMBEDDINGS, LABELS))
    return VectorFile(features, labels, (path,))


def _read_parquet(path: Path) -> VectorFile:
    columns = _parquet_columns(path)
    features, labels = (columns[_named(list(columns), names, path)] for names in (EMBEDDINGS, LABELS))
    if labels.dtype == object and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    return VectorFile(np.stack(list(features)) if len(features) else np.empty((0, 0)), labels, (path,))


def _parquet_columns(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return the columns by name, those of lists as arrays of arrays, with whichever library is there."""
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        return _pandas_columns(path)
    table = read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _pandas_columns(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow or pandas, and neither is installed",
            remedy="pip install pyarrow, or save the arrays with np.savez(..., embeddings=..., labels=...)",
        ) from error
    return {str(name): frame[name].to_numpy() for name in frame.columns}


READERS: dict[str, Callable[[Path], VectorFile]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


def _named(there: list[str], names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in there:
            return name
    raise UserError(f"{path} holds {', '.join(there) or 'nothing'}", expected=f"one called {names[0]}")


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
