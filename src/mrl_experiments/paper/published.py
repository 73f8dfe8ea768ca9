"""The values printed in "Matryoshka Representation Learning" (arXiv 2205.13147), as rows of our own form."""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from mrl_experiments.results import ResultRow, read_rows

PUBLISHED = Path(__file__).with_name("published.csv")


@dataclass(frozen=True, kw_only=True)
class PaperRow(ResultRow):
    """A published value: `run` is the paper's name of the model, fractions lie in [0, 1].

    Attributes:
        table: "table01" to "table31", or the figure that alone shows the value.
        source: Where it was read, and for a plot how precisely.
        anomaly: Why not to take it at face value, or nothing.
    """

    table: str
    source: str
    anomaly: str


def published(table: str | None = None) -> list[PaperRow]:
    """Return the published values of one table, or all. Cells that the paper leaves empty have no row.

    Dims, list lengths and loss weights are coordinates of a value (`dim`, `setting`), not values.
    """
    return [row for row in _all_published() if table in (None, row.table)]


@functools.cache
def _all_published() -> list[PaperRow]:
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    return [
        PaperRow(**vars(row), table=record["table"], source=record["source"], anomaly=record["anomaly"])
        for row, record in zip(read_rows(PUBLISHED), records, strict=True)
    ]
