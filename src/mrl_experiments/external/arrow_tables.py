"""Reading columns of vectors and labels from Parquet and Arrow files, row by row where one is at fault."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.external.spool import Spool

EMBEDDINGS = ("embeddings", "embedding", "features", "vectors", "vector")  # arrays or columns, first found
LABELS = ("labels", "label")
IDS = ("ids", "id", "_id")
TEXTS = ("texts", "text", "sentence", "caption")
PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather")
# No embeddings compress so well.
MOST_BYTES, MOST_RATIO = 1 << 28, 200
BATCH = 8192  # rows

# Features (N, D), labels (N,) and ids (N,), where there are any.
Columns = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]


def check_inflation(declared: int, stored: int, path: Path) -> None:
    """Raise UserError where `stored` bytes of a file are to become far more, to fill the memory."""
    if declared > max(MOST_BYTES, MOST_RATIO * stored):
        raise UserError(
            f"{path} inflates {stored:,} bytes to {declared:,}",
            expected=f"at most {MOST_RATIO} times as many",
            remedy="save it without compression, for example with np.savez",
        )


def named(there: Sequence[str], names: tuple[str, ...], path: Path) -> str:
    """Return the first of `names` that is there.

    Raises:
        UserError: If none is.
    """
    if found := first_of(there, names):
        return found
    raise UserError(f"{path} holds {', '.join(there) or 'nothing'}", expected=f"one called {names[0]}")


def first_of(there: Sequence[str], names: tuple[str, ...]) -> str | None:
    """Return the first of `names` that is there, None for none."""
    return next((name for name in names if name in there), None)


def read_tables(files: Sequence[Path], root: Path) -> Columns:
    """Return features, labels and ids of all files, one after the other.

    Raises:
        UserError: Without pyarrow, for parts that do not fit each other, and for rows that are null, short or
            no numbers; other exceptions for damaged files.
    """
    require_pyarrow(root)
    spool, parts = Spool(root), []
    for path in files:
        before = spool.rows
        _add_matrix(spool, path, EMBEDDINGS)
        parts.append((spool.rows - before, *_read_others(path, root, spool.rows - before)))
    parts = [part for part in parts if part[0]] or parts[:1]  # Spark writes empty ones too
    for what, found in (
        ("the kind of their labels", {None if ls is None else ls.dtype.kind == "U" for _, ls, _ in parts}),
        ("whether they have ids", {ids is None for _, _, ids in parts}),
    ):
        if len(found) > 1:
            raise UserError(f"{root}: its parts differ in {what}", expected="files of one table")
    _, *others = zip(*parts, strict=True)
    labels, ids = (None if column[0] is None else np.concatenate(column) for column in others)
    return spool.result(), labels, ids


def read_matrices(files: Sequence[Path], root: Path, names: tuple[str, ...]) -> NDArray[Any]:
    """Return the first column of `names` of all files as (N, D), one after the other."""
    require_pyarrow(root)
    spool = Spool(root)
    for path in files:
        _add_matrix(spool, path, names)
    return spool.result()


def _add_matrix(spool: Spool, path: Path, names: tuple[str, ...]) -> None:
    """Add the first column of `names` as (N, D), batch by batch: it may exceed the memory."""
    row, width = 0, None
    for batch in _batches(path, [named(schema_of(path).names, names, path)]):
        block = matrix_of(batch.column(0), path, row, width)
        row, width = row + len(block), block.shape[1] or width
        spool.add(block)


def schema_of(path: Path) -> Any:
    """Return the names and types of a file's columns."""
    from pyarrow import parquet

    return parquet.read_schema(path) if path.suffix in PARQUET else open_arrow(path).schema


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    """Yield some columns, a batch of rows at a time: what a file declares of its size is not to be trusted.

    Damaged ones raise ValueError: an offset beyond the file would end the process.
    """
    from pyarrow.parquet import ParquetFile

    if path.suffix not in PARQUET:
        for batch in open_arrow(path).select(columns).to_batches():
            batch.validate(full=True)
            yield batch
        return
    total = 0
    with ParquetFile(path, pre_buffer=False) as file:  # which would hold the whole column
        for batch in file.iter_batches(BATCH, columns=columns):
            total += batch.nbytes
            check_inflation(total, path.stat().st_size, path)
            batch.validate(full=True)
            yield batch


def require_pyarrow(root: Path) -> None:
    """Raise UserError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{root}: Parquet and Arrow files need pyarrow, which is not installed",
            remedy="pip install pyarrow, or save the arrays with np.savez(..., embeddings=..., labels=...)",
        ) from error


def read_column(files: Sequence[Path], names: tuple[str, ...]) -> list[Any]:
    """Return the first column of `names` of all files, one after the other."""
    values: list[Any] = []
    for path in files:
        name = named(schema_of(path).names, names, path)
        values += _columns(path, [name])[name].to_pylist()
    return values


def _columns(path: Path, wanted: Sequence[str]) -> Any:
    """Return the columns that are both there and wanted, as a table."""
    import pyarrow

    fields = [field for field in schema_of(path) if field.name in wanted]
    return pyarrow.Table.from_batches(
        _batches(path, [field.name for field in fields]), pyarrow.schema(fields)
    )


def _read_others(path: Path, root: Path, count: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return labels and ids (N,) of a file of `count` rows."""
    columns = _columns(path, LABELS + IDS)
    there = columns.column_names
    # A folder label=cat of Spark or Hive gives all rows in it a label.
    folders = path.relative_to(root).parts[:-1]
    partition = dict(part.split("=", 1) for part in folders if "=" in part)
    value = next((partition[name] for name in LABELS if name in partition and name not in there), None)
    labels = None if value is None else np.full(count, unquote(value))
    if labels is None and (name := first_of(there, LABELS)):
        labels = _names(columns[name], path, "label")
    ids = None
    if name := first_of(there, IDS):
        with suppress(UserError):  # most evaluations need none, and a column of this name may be anything
            ids = _names(columns[name], path, "id").astype(str)
    return labels, ids


def open_arrow(path: Path) -> Any:
    """Return the table, memory-mapped, of the file format, which Feather is, or of datasets' stream."""
    import pyarrow
    from pyarrow import ipc

    source = pyarrow.memory_map(str(path))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return (ipc.open_file if is_file else ipc.open_stream)(source).read_all()


def matrix_of(column: Any, path: Path, first: int = 0, width: int | None = None) -> NDArray[Any]:
    """Return lists of numbers as (N, D).

    Args:
        column: An array of them.
        path: Where it comes from, for messages.
        first: The row that it begins at.
        width: D, where it is known from rows before.
    """
    from pyarrow import BaseExtensionType, compute, types

    if isinstance(column.type, BaseExtensionType):  # tensors
        column = column.storage
    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise UserError(f"{path}: embeddings of type {kind}", expected="a list of numbers in each row")
    _refuse_nulls(column, path, "embedding", first)
    if not len(column):
        return np.empty((0, 0), np.float32)
    lengths = np.asarray(compute.list_value_length(column), np.int64)
    width = int(np.bincount(lengths).argmax()) if width is None else width
    if len(odd := np.flatnonzero(lengths != width)):
        raise UserError(
            f"{path}: row {first + odd[0]} has {lengths[odd[0]]} values, most others {width} "
            f"({len(odd)} such rows)",
            expected="embeddings of one length",
            remedy="leave these rows out, or embed them again",
        )
    values = column.flatten()
    if values.null_count:
        raise UserError(
            f"{path}: row {first + np.asarray(values.is_null()).argmax() // width} has values that are null",
            expected="numbers only",
            remedy="leave such rows out, or embed them again",
        )
    return np.asarray(values).reshape(-1, width)  # perhaps a memory map


def _names(column: Any, path: Path, what: str) -> NDArray[Any]:
    """Return integers or strings (N,)."""
    from pyarrow import types

    if types.is_dictionary(column.type):  # categories
        column = column.cast(column.type.value_type)
    kind = column.type
    strings = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if not (strings or types.is_integer(kind)):
        raise UserError(f"{path}: {what}s of type {kind}", expected="integers or strings")
    _refuse_nulls(column, path, what)
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    return values.astype(str) if strings else values


def _refuse_nulls(column: Any, path: Path, what: str, first: int = 0) -> None:
    if column.null_count:
        nulls = np.flatnonzero(np.asarray(column.is_null()))
        raise UserError(
            f"{path}: row {first + nulls[0]} has no {what} ({len(nulls)} such rows)",
            expected=f"one {what} in each row",
            remedy="leave these rows out",
        )
