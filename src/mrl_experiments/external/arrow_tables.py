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
    for column in (_parquet_batches if path.suffix in PARQUET else _arrow_batches)(path, names):
        block = matrix_of(column, path, row, width)
        row, width = row + len(block), block.shape[1] or width
        spool.add(block)


def _parquet_batches(path: Path, names: tuple[str, ...]) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, pre_buffer=False) as file:  # which would hold the whole column
        name, total = named(file.schema_arrow.names, names, path), 0
        for batch in file.iter_batches(BATCH, columns=[name]):
            total += batch.nbytes
            check_inflation(total, path.stat().st_size, path)
            column = pyarrow.chunked_array([batch.column(0)])
            column.validate(full=True)
            yield column
        if not total:
            yield pyarrow.chunked_array([], type=file.schema_arrow.field(name).type)


def _arrow_batches(path: Path, names: tuple[str, ...]) -> Iterator[Any]:
    import pyarrow

    columns = _columns(path, names)
    column = columns[named(list(columns), names, path)]
    yield from [pyarrow.chunked_array([chunk]) for chunk in column.chunks] or [column]


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
        columns = _columns(path, names)
        values += columns[named(list(columns), names, path)].to_pylist()
    return values


def _columns(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    return (_parquet_columns if path.suffix in PARQUET else _arrow_columns)(path, wanted)


def _read_others(path: Path, root: Path, count: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return labels and ids (N,) of a file of `count` rows."""
    columns = _columns(path, LABELS + IDS)
    # A folder label=cat of Spark or Hive gives all rows in it a label.
    folders = path.relative_to(root).parts[:-1]
    partition = dict(part.split("=", 1) for part in folders if "=" in part)
    value = next((partition[name] for name in LABELS if name in partition and name not in columns), None)
    labels = None if value is None else np.full(count, unquote(value))
    if labels is None and (name := first_of(list(columns), LABELS)):
        labels = _names(columns[name], path, "label")
    ids = None
    if name := first_of(list(columns), IDS):
        with suppress(UserError):  # most evaluations need none, and a column of this name may be anything
            ids = _names(columns[name], path, "id").astype(str)
    return labels, ids


def _parquet_columns(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Read a batch of rows at a time: what columns declare of their size is not to be trusted."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, pre_buffer=False) as file:  # which would hold the whole column
        names = file.schema_arrow.names
        wanted = tuple(name for name in names if name in wanted)
        batches: list[Any] = []
        total = 0
        for batch in file.iter_batches(BATCH, columns=[*wanted]):
            batches.append(batch)
            total += batch.nbytes
            check_inflation(total, path.stat().st_size, path)
        schema = (
            batches[0].schema if batches else pyarrow.schema([file.schema_arrow.field(n) for n in wanted])
        )
        return _checked_columns(pyarrow.Table.from_batches(batches, schema), names, wanted)


def _arrow_columns(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    table = open_arrow(path)
    return _checked_columns(table, table.column_names, wanted)


def open_arrow(path: Path) -> Any:
    """Return the table, memory-mapped, of the file format, which Feather is, or of datasets' stream."""
    import pyarrow
    from pyarrow import ipc

    source = pyarrow.memory_map(str(path))
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return (ipc.open_file if is_file else ipc.open_stream)(source).read_all()


def _checked_columns(table: Any, names: Sequence[str], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns that are wanted by name, and None for the others; damaged ones raise ValueError."""
    columns = {name: table[name] if name in wanted else None for name in names}
    for column in columns.values():
        if column is not None:
            column.validate(full=True)  # an offset beyond the file would end the process
    return columns


def matrix_of(column: Any, path: Path, first: int = 0, width: int | None = None) -> NDArray[Any]:
    """Return lists of numbers as (N, D).

    Args:
        column: A chunked array.
        path: Where it comes from, for messages.
        first: The row that it begins at.
        width: D, where it is known from rows before.
    """
    from pyarrow import BaseExtensionType, types

    chunks = [c.storage if isinstance(c.type, BaseExtensionType) else c for c in column.chunks]  # tensors
    kinds = {chunk.type for chunk in chunks}
    for kind in kinds:
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
            raise UserError(f"{path}: embeddings of type {kind}", expected="a list of numbers in each row")
    _refuse_nulls(column, path, "embedding", first)
    lengths = np.concatenate([np.empty(0, np.int64), *map(_lengths, chunks)])
    if not len(lengths):
        return np.empty((0, 0), np.float32)
    width = int(np.bincount(lengths).argmax()) if width is None else width
    if len(odd := np.flatnonzero(lengths != width)):
        raise UserError(
            f"{path}: row {first + odd[0]} has {lengths[odd[0]]} values, most others {width} "
            f"({len(odd)} such rows)",
            expected="embeddings of one length",
            remedy="leave these rows out, or embed them again",
        )
    values = [chunk.flatten() for chunk in chunks]
    nulls = np.concatenate([part.is_null().to_numpy(zero_copy_only=False) for part in values])
    if nulls.any():
        raise UserError(
            f"{path}: row {first + nulls.argmax() // width} has values that are null",
            expected="numbers only",
            remedy="leave such rows out, or embed them again",
        )
    arrays = [part.to_numpy(zero_copy_only=False) for part in values]  # of one batch, perhaps a memory map
    return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(-1, width)


def _lengths(chunk: Any) -> NDArray[np.int64]:
    from pyarrow import compute

    lengths = compute.list_value_length(chunk)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)


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
        nulls = np.flatnonzero(column.is_null().to_numpy())
        raise UserError(
            f"{path}: row {first + nulls[0]} has no {what} ({len(nulls)} such rows)",
            expected=f"one {what} in each row",
            remedy="leave these rows out",
        )
