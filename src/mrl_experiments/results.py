"""Result rows: the only place where numbers live. Tables, figures and W&B are views of them."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path


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
    """Read a CSV file of rows. Raises UserError when columns are missing."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - OPTIONAL - set(reader.fieldnames or ())
        if missing:
            raise UserError(
                f"{path} lacks the columns {sorted(missing)}",
                expected="a file of result rows as evaluate.py writes them",
                remedy="repeat the evaluation that wrote it",
            )
        return [_row(record) for record in reader]


def _row(record: dict[str, str]) -> ResultRow:
    values: dict[str, object] = {name: record[name] for name in COLUMNS if name in record}
    values["dim"] = int(record["dim"])
    values["trained"] = record["trained"] == "true"
    values["value"] = float(record["value"])
    values["seed"] = int(record["seed"]) if record["seed"] else None
    return ResultRow(**values)  # type: ignore[arg-type]
