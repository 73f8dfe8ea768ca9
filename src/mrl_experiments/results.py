"""Result rows, from which all tables and figures are made."""

import csv
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mrl_experiments.examples import Examples
from mrl_experiments.files import atomic_path, reading

DRAW = "draw"  # names one random draw; the row without it is the mean over draws
UNITS = {"quantile": "%"}  # of settings
STAGES = re.compile(r"[0-9]{1,9}:[0-9]{1,9}(>[0-9]{1,9}:[0-9]{1,9})*")


class Setting(dict[str, Any]):
    """What tells apart measurements of one evaluation at one dim, such as {"k": 10}; not changed once made.

    Values are names, numbers, and lists of them such as the stages of a funnel, held as tuples; 1.0 is 1.
    """

    def __init__(self, *given: Mapping[str, Any], **more: Any) -> None:
        super().__init__({name: _held(value) for name, value in dict(*given, **more).items()})

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __str__(self) -> str:
        return " ".join(f"{name}={text}" for name, text in self.texts().items())

    def texts(self) -> dict[str, str]:
        """Return the values as tables and messages show them, such as "16:200>2048:10" for stages."""
        return {name: f"{_text(value)}{UNITS.get(name, '')}" for name, value in self.items()}


def _held(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_held, value))
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError(f"{str(value)[:40]!r} in a setting is neither a name nor a number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ">".join(":".join(map(_text, p)) if isinstance(p, tuple) else _text(p) for p in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_setting(text: str) -> Setting:
    """Read a setting from JSON, or from how rows were once written: "index=flat stages=8:200>16:10".

    Raises:
        ValueError: For anything else than an object of names, numbers and lists of them.
    """
    if not text.startswith("{"):
        parts = [part.split("=", 1) for part in text.split() if "=" in part]
        return Setting({name: _old_value(value, UNITS.get(name, "")) for name, value in parts})
    try:
        return Setting(json.loads(text))
    except RecursionError as error:
        raise ValueError("a setting of lists inside lists") from error


def _old_value(text: str, unit: str) -> Any:
    if STAGES.fullmatch(text):
        return [[int(size) for size in stage.split(":")] for stage in text.split(">")]
    for kind in (int, float):
        with suppress(ValueError):
            value = _held(kind(text.removesuffix(unit)))
            if f"{_text(value)}{unit}" == text:
                return value
    return text


@dataclass(frozen=True)
class Measurement:
    """What an evaluation yields: one value of one metric at one dim.

    Fractions lie in [0, 1]; times are in milliseconds, sizes in bytes, costs in MACs, as the metric's name
    says. `setting` tells apart measurements of one evaluation at one dim: {"k": 10}, {"shortlist": 200}.
    `examples` are stored beside the rows.
    """

    dim: int
    metric: str
    value: float
    setting: Mapping[str, Any] = field(default_factory=Setting)
    examples: Examples | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", Setting(self.setting))


def measured(
    dim: int, values: Mapping[str, float], setting: Mapping[str, Any] | None = None
) -> Iterator[Measurement]:
    """Yield a measurement of each metric at one dim, with one setting."""
    for metric, value in values.items():
        yield Measurement(dim, metric, float(value), setting or Setting())


@dataclass(frozen=True)
class ResultRow:
    """One value with everything needed to place it in a table; no file name is ever parsed for meaning.

    Attributes:
        label: What sets the run apart from others of its method, such as the ablation it belongs to; "" for
            the usual recipe.
        embeddings: The beginning of the checksum of the queries' features; "" where it is not known.
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
    setting: Mapping[str, Any]
    metric: str
    value: float
    seed: int | None
    label: str = ""
    embeddings: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "setting", Setting(self.setting))


def mean_and_deviation(metric: str, values: Sequence[float]) -> dict[str, float]:
    """Summarize repeated measurements, such as those of several draws or splits.

    Everywhere in this project, a deviation is the sample standard deviation, n - 1 in the denominator.

    Returns:
        The mean under the metric's name and, of at least two values, their deviation under <metric>_std.

    Example:
        >>> mean_and_deviation("top1", [0.5, 0.75, 1.0])
        {'top1': 0.75, 'top1_std': 0.25}
    """
    summary = {metric: fmean(values)}
    if len(values) > 1:
        summary[f"{metric}_std"] = stdev(values)
    return summary


NATIVE = "native widths"  # labels networks inside a run that have a width of their own
COLUMNS = tuple(field.name for field in fields(ResultRow))
OPTIONAL = {"label", "embeddings"}  # files written before there were these columns are still read
CHECKSUM = "crc32"  # the column with a row's checksum; files without it are read as they are
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters that no name has
DIGITS = 10  # of a dim or a seed
SPREAD = re.compile(r"_(std|ci95)$")  # ends the metric of a mean's deviation or interval


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Replace `path` by a CSV file of `rows`, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, CHECKSUM], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            record = dict(vars(row))
            record["setting"] = json.dumps(row.setting, ensure_ascii=False)
            record["trained"] = str(row.trained).lower()
            record["value"] = f"{row.value:.8g}"
            record["seed"] = "" if row.seed is None else row.seed
            writer.writerow({**record, CHECKSUM: _checksum(record)})


def with_new_rows(there: Iterable[ResultRow], new: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows of a file after an evaluation: each new one takes the place of the former.

    Two rows are of one measurement where split, label, dim, setting and metric agree; all rows of a file
    share run, data set, evaluation and reduction. Draws and deviations go with their mean; what index=auto
    has chosen, dim and setting, goes with the next choice.
    """
    measured = set(map(_measurement, new))
    return [*(row for row in there if _measurement(row) not in measured), *new]


def _measurement(row: ResultRow) -> tuple[Any, ...]:
    setting = Setting({name: value for name, value in row.setting.items() if name != DRAW})
    dim, metric = row.dim, SPREAD.sub("", row.metric)
    if setting.get("index") == "auto":
        dim, setting = 0, Setting(index="auto")
    return row.split, row.label, dim, setting, metric


def read_rows(path: Path) -> list[ResultRow]:
    """Read a CSV file of rows.

    Returns:
        The rows in their order; values may be NaN or infinite, as an evaluation found them.

    Raises:
        UserError: If it cannot be read or is no such table: missing columns, a row cut short or too long or
            changed since it was written, a dim that is no number, control characters.
    """
    remedy = "delete it and repeat the evaluation that wrote it"
    expected = "a file of result rows as evaluate.py writes them"
    with reading(path, expected, remedy, "is no file of result rows"):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is no file")
        # Spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(reader.fieldnames or ())
            return [_row(reader.line_num, record) for record in reader]


def _check_columns(names: Sequence[str]) -> None:
    missing = set(COLUMNS) - OPTIONAL - set(names)
    if missing:
        raise ValueError(f"it lacks the columns {sorted(missing)}")
    if len(names) > len(set(names)):
        raise ValueError(f"it has the columns {sorted({n for n in names if names.count(n) > 1})} twice")


def _row(line: int, record: dict[str | None, str | None]) -> ResultRow:
    if None in record or None in record.values():
        raise ValueError(f"line {line} has {'more' if None in record else 'fewer'} cells than the heading")
    cells = {str(name): str(cell) for name, cell in record.items()}
    if CONTROL.search("".join(cells.values())):
        raise ValueError(f"line {line} has a control character in a name")
    if CHECKSUM in cells and cells[CHECKSUM] != _checksum(cells):
        told = f"line {line} has changed since it was written"
        raise ValueError(f"{told} (if that is meant, remove the column {CHECKSUM})")
    values: dict[str, object] = {name: cells[name] for name in COLUMNS if name in cells}
    try:
        values["dim"] = _whole(cells["dim"])
        values["trained"] = _truth(cells["trained"])
        values["value"] = float(cells["value"])
        values["seed"] = _whole(cells["seed"]) if cells["seed"] else None
        values["setting"] = read_setting(cells["setting"])
        if CONTROL.search(str(values["setting"])):
            raise ValueError("a control character in its setting")
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    if not values["dim"]:
        raise ValueError(f"line {line} has the dim 0")
    return ResultRow(**values)  # type: ignore[arg-type]


def _checksum(cells: Mapping[str, Any]) -> str:
    # Rows of before there was the last column keep their checksum.
    names = COLUMNS if cells.get(COLUMNS[-1]) else COLUMNS[:-1]
    text = "\n".join(str(cells.get(name, "")) for name in names)
    return f"{zlib.crc32(text.encode()):08x}"


def _whole(text: str) -> int:
    if not (text.isdecimal() and len(text) <= DIGITS):
        raise ValueError(f"{text[:40]!r} is no whole number of at most {DIGITS} digits")
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text[:40]!r} is neither true nor false")
    return text == "true"
