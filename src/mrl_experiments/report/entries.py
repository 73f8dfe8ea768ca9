"""Result rows made ready to be placed: each with its line and its settings taken apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from mrl_experiments.errors import UserError
from mrl_experiments.report.lines import key_of
from mrl_experiments.results import ResultRow, read_rows

REPEATS = {"draw"}  # settings that number repetitions of one measurement
SINGLE_WIDTH = {"ff", "slim"}  # methods without interpolated sizes


@dataclass(frozen=True)
class Entry:
    """A result row, the line it belongs to, and its settings by name."""

    row: ResultRow
    line: str
    settings: dict[str, str]

    def get(self, name: str) -> str | int | bool:
        """Return the value of a column of the row, of the line, or of a setting ("" where it has none)."""
        if name == "line":
            return self.line
        if name == "interpolated":
            return self.interpolated
        value: str | int | bool = vars(self.row).get(name, self.settings.get(name, ""))
        return int(value) if isinstance(value, str) and value.isdigit() else value

    @property
    def interpolated(self) -> bool:
        """Whether a nested method is used at a size it was not trained at."""
        row = self.row
        return not row.trained and row.reduction == "prefix" and row.method not in SINGLE_WIDTH

    @property
    def repeat(self) -> str:
        """Which repetition this is: the seed and the draw."""
        draws = [f"{name} {self.settings[name]}" for name in sorted(REPEATS & set(self.settings))]
        return " ".join([f"seed {self.row.seed}", *draws])


def find_rows(patterns: Sequence[str]) -> list[ResultRow]:
    """Read the rows of all CSV files that match the patterns. Raises UserError when there are none."""
    files = sorted({Path(path) for pattern in patterns for path in glob(pattern, recursive=True)})
    rows = [row for path in files for row in read_rows(path)]
    if not rows:
        raise UserError(
            f"no result rows in {', '.join(patterns)}",
            expected="files that evaluate.py wrote",
            remedy="python evaluate.py run=<name> evaluation=linear, or name other files: rows=[results/**/*.csv]",
        )
    return rows


def entries(rows: Sequence[ResultRow]) -> list[Entry]:
    """Give each row its line; rows of FF runs may belong to two lines or to none.

    An FF run counts for the line "ff" only at the size it was trained at, in place of one model for each size.
    Its other prefixes and its reductions are lines of their own, for the widest FF run alone (Table 2).
    """
    trained: dict[str, int] = {}
    for row in rows:
        if row.method == "ff" and row.reduction == "prefix" and row.trained:
            trained[row.run] = max(row.dim, trained.get(row.run, 0))
    widest: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.run in trained:
            place = (row.model, row.dataset)
            widest[place] = max(trained[row.run], widest.get(place, 0))
    return [
        Entry(_in_mflops(row), line, _settings(row.setting))
        for row in rows
        for line in _lines(row, trained.get(row.run), widest.get((row.model, row.dataset)))
    ]


def _lines(row: ResultRow, trained: int | None, widest: int | None) -> Iterator[str]:
    key = key_of(row.method, row.reduction, row.evaluation)
    if row.method != "ff":
        yield key
        return
    if row.reduction != "prefix":
        if trained == widest:
            yield key
        return
    if row.dim == trained:
        yield key
    # The classifier of an FF run serves its own size alone: no shorter prefixes there.
    if trained == widest and row.evaluation != "linear":
        yield key.replace("ff", "ff_prefix", 1)


def _in_mflops(row: ResultRow) -> ResultRow:
    """Write multiply-adds as the paper does, in millions."""
    return replace(row, metric="MFLOPs", value=row.value / 1e6) if row.metric == "macs" else row


def _settings(setting: str) -> dict[str, str]:
    """Take "k=10 index=flat" apart; a funnel's stages also tell its first shortlist."""
    settings = dict(part.split("=", 1) for part in setting.split() if "=" in part)
    if "stages" in settings:
        settings["shortlist"] = settings["stages"].split(">")[0].split(":")[-1]
    return settings


def where(found: Iterable[Entry], **expected: str | int | bool) -> list[Entry]:
    """Return the entries with all the expected values."""
    return [entry for entry in found if all(entry.get(key) == value for key, value in expected.items())]
