"""Result rows: the only place where numbers live. Tables, figures and W&B are views of them."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, os_error


@dataclass(frozen=True)
class Measurement:
    """What an evaluation yields: one value of one metric at one size.

    Fractions lie in [0, 1]; times are in milliseconds, sizes in bytes, costs in MACs, as the metric's name
    says. `setting` tells apart measurements of one evaluation at one size ("k=10", "shortlist=200").
    """

    dim: int
    metric: str
    value: float
    setting: str = ""


@dataclass(frozen=True)
class ResultRow:
    """One value with everything needed to place it in a table; no file name is ever parsed for meaning.

    label: what sets the run apart from others of its method, such as an ablation's variant; "" for the usual
    recipe.
    """

    run: str
    method: str
    model: str
    dataset: str
    split: str
    evaluation: str
    reduction: str
    dim: int
    trained: bool
    setting: str
    metric: str
    value: float
    seed: int | None
    label: str = ""


NATIVE = "native widths"  # labels networks inside a run that have a size of their own
COLUMNS = tuple(field.name for field in fields(ResultRow))
OPTIONAL = {"label"}  # files written before there was this column are still read
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters that no name has
DIGITS = 10  # of a size or a seed


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Replace `path` by a CSV file of `rows`, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            record = asdict(row)
            record["trained"] = str(row.trained).lower()
            record["value"] = f"{row.value:.8g}"
            record["seed"] = "" if row.seed is None else row.seed
            writer.writerow(record)


def read_rows(path: Path) -> list[ResultRow]:
    """Read a CSV file of rows.

    Returns:
        The rows in their order; values may be NaN or infinite, as an evaluation found them.

    Raises:
        UserError: with the file, and the line where there is one, when it cannot be read or is no such table:
            missing columns, a row cut short or too long, a size that is no number, control characters.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise _damaged(path, "it is no file")
        # Spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            return [_row(path, reader.line_num, record) for record in reader]
    except OSError as error:
        raise os_error(error, path) from error
    except UnicodeError as error:
        raise _damaged(path, "it is no text in UTF-8") from error
    except csv.Error as error:
        raise _damaged(path, str(error)) from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    missing = set(COLUMNS) - OPTIONAL - set(names)
    if missing:
        raise _damaged(path, f"it lacks the columns {sorted(missing)}")
    if len(names) > len(set(names)):
        raise _damaged(path, f"it has the columns {sorted({n for n in names if names.count(n) > 1})} twice")


def _row(path: Path, line: int, record: dict[str | None, str | None]) -> ResultRow:
    if None in record or None in record.values():
        raise _damaged(
            path, f"line {line} has {'more' if None in record else 'fewer'} cells than the heading"
        )
    cells = {str(name): str(cell) for name, cell in record.items()}
    if CONTROL.search("".join(cells.values())):
        raise _damaged(path, f"line {line} has a control character in a name")
    values: dict[str, object] = {name: cells[name] for name in COLUMNS if name in cells}
    try:
        values["dim"] = _whole(cells["dim"])
        values["trained"] = _truth(cells["trained"])
        values["value"] = float(cells["value"])
        values["seed"] = _whole(cells["seed"]) if cells["seed"] else None
    except ValueError as error:
        raise _damaged(path, f"line {line}: {error}") from error
    if not values["dim"]:
        raise _damaged(path, f"line {line} has the size 0")
    return ResultRow(**values)  # type: ignore[arg-type]


def _whole(text: str) -> int:
    if not (text.isdecimal() and len(text) <= DIGITS):
        raise ValueError(f"{text[:40]!r} is no whole number of at most {DIGITS} digits")
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text[:40]!r} is neither true nor false")
    return text == "true"


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is no file of result rows: {reason}",
        expected="a file of result rows as evaluate.py writes them",
        remedy="delete it and repeat the evaluation that wrote it",
    )
