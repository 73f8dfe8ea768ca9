"""Columns of whole numbers, numbers, texts and flags that go along with vectors, and tables of them."""

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.errors import UserError, said
from mrl_experiments.external.arrow_tables import ARROW, PARQUET, open_arrow, require_pyarrow

INT, FLOAT, TEXT, FLAG = "int", "float", "text", "flag"
RESERVED = {"id", "vector", "prefix"}
# Words of the languages in which some engine is asked, and columns that some have by themselves.
WORDS = {
    "and",
    "or",
    "not",
    "in",
    "is",
    "like",
    "exists",
    "true",
    "false",
    "null",
    "case",
    "cast",
    "distinct",
}
WORDS |= {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")  # what each engine takes as the name of a column, without quotes


@dataclass(frozen=True)
class Column:
    """Values of one kind: `INT`, `FLOAT`, `TEXT` or `FLAG`; an array (N,), or a column of Arrow."""

    kind: str
    values: Any

    def __getitem__(self, rows: slice) -> "Column":
        return Column(self.kind, self.values[rows])

    def listed(self) -> list[Any]:
        """Return the values as Python's, None where there is none."""
        values: list[Any] = (
            self.values.to_pylist() if hasattr(self.values, "to_pylist") else self.values.tolist()
        )
        return values


def read_payload(path: Path, count: int, taken: Container[str]) -> dict[str, Column]:
    """Read a table (.parquet, .feather, .arrow, .csv) with a row for each vector, in the same order.

    Args:
        path: The file.
        count: N, the number of vectors.
        taken: Names of columns that are in use.

    Raises:
        UserError: If it is no such table, has another number of rows, or a column with a name or of a type
            that not every engine takes.
    """
    table = _table(path)
    from pyarrow import ArrowException

    if table.num_rows != count:
        raise UserError(
            f"payload={path} has {table.num_rows:,} rows, there are {count:,} vectors",
            expected="a row for each vector, in the same order",
        )
    columns: dict[str, Column] = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        if name in columns:
            raise UserError(f"payload={path}: several columns named {name!r}", expected="one of each name")
        if not NAME.fullmatch(name) or name in RESERVED | WORDS or name in taken:
            raise UserError(
                f"payload={path}: a column named {name!r}",
                expected="a lower-case letter, then such letters, digits and _, no word of SQL, and none of "
                + ", ".join(sorted({*RESERVED, *(taken if isinstance(taken, dict) else ())})),
                remedy="rename or leave out this column",
            )
        where = f"payload={path}: column {name}"
        try:
            columns[name] = _column(values, where)
        except ArrowException as error:
            raise UserError(
                f"{where} holds what does not fit: {said(error)}",
                expected="whole numbers of int64, and dates of years",
            ) from error
    return columns


def _table(path: Path) -> Any:
    if not path.is_file() or path.suffix not in (*PARQUET, *ARROW, ".csv"):
        raise UserError(
            f"payload={path} {'is no table' if path.exists() else 'does not exist'}",
            expected=f"a file of {', '.join((*PARQUET, *ARROW, '.csv'))}",
        )
    require_pyarrow(path)
    from pyarrow import ArrowException, csv, parquet

    try:
        if path.suffix in PARQUET:
            return parquet.read_table(path)
        return open_arrow(path) if path.suffix in ARROW else csv.read_csv(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"payload={path} cannot be read: {said(error)}") from error


def _column(values: Any, where: str) -> Column:
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if types.is_integer(kind):
        return Column(INT, values.cast(pyarrow.int64()))
    if types.is_floating(kind):
        return Column(FLOAT, values.cast(pyarrow.float64()))
    if types.is_boolean(kind):
        return Column(FLAG, values)
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_date(kind)
        or types.is_timestamp(kind)
    ):
        return Column(TEXT, values.cast(pyarrow.string()))
    raise UserError(f"{where} of type {kind}", expected="numbers, texts, dates or true and false")


def arrow_type(kind: str) -> Any:
    """Return the type of Arrow of a kind."""
    import pyarrow

    types = {INT: pyarrow.int64(), FLOAT: pyarrow.float64(), TEXT: pyarrow.string(), FLAG: pyarrow.bool_()}
    return types[kind]


def arrow_array(column: Column) -> Any:
    """Return a column as one of Arrow."""
    import pyarrow

    if hasattr(column.values, "combine_chunks"):
        return column.values.combine_chunks()
    values = column.values
    return pyarrow.array(values if values.dtype != object else values.tolist(), arrow_type(column.kind))


def arrow_vectors(vectors: Any, half: bool = False) -> Any:
    """Return vectors (n, D) as lists of D numbers, of float32 or, if half, float16."""
    import pyarrow

    flat = np.ascontiguousarray(vectors, np.float16 if half else np.float32).ravel()
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), vectors.shape[1])
