"""Entries to cells: one number with its deviation and the runs it came from."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import nan
from statistics import fmean, stdev

from mrl_experiments.report.entries import Entry, Value
from mrl_experiments.report.lines import family
from mrl_experiments.report.metrics import DEVIATION, fault
from mrl_experiments.report.views import View
from mrl_experiments.results import ResultRow

ROLES = {
    "val": "main", "test": "main", "pairs": "main", "query": "unseen", "unseen": "unseen", "stream": "stream",
}  # fmt: skip
Key = tuple[Value, ...]


@dataclass(frozen=True)
class Cell:
    """A mean over runs.

    deviation: over runs, n - 1 in the denominator; for a single run the one it states itself, over its own
    splits or draws; else None. rows: where the number comes from.
    repeated: whether two of the runs have one seed and different values: they differ in something that rows
    don't say.
    fault: why a value of it cannot be averaged ("not finite", "out of range"); the mean is NaN then.
    """

    mean: float
    deviation: float | None
    rows: tuple[ResultRow, ...]
    repeated: bool = False
    fault: str = ""

    @property
    def count(self) -> int:
        """The number of runs."""
        return len(self.rows)


def select(found: Iterable[Entry], view: View) -> list[Entry]:
    """Return the entries that a view shows, whatever their metric."""
    wanted = {"with": (True, False), "without": (False,), "only": (True,)}[view.interpolated]
    return [
        entry
        for entry in found
        if entry.row.evaluation in view.evaluations
        and ROLES.get(entry.row.split, "shift") == view.role
        and entry.interpolated in wanted
        and all(fnmatchcase(str(entry.get(name)), str(value)) for name, value in view.settings.items())
        and _compared(entry.row.label, view.ablation)
    ]


def _compared(label: str, ablation: str) -> bool:
    return (not label or family(label) == ablation) if ablation else not family(label)


def leftover(entry: Entry, view: View, used: Iterable[str]) -> str:
    """Return the settings that a view neither shows, demands nor ignores: they set its blocks apart."""
    named = {*view.settings, *view.ignore, *used}
    return " ".join(f"{name}={value}" for name, value in entry.settings.items() if name not in named)


def cells(found: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, dict[str, Cell]]:
    """Group entries by key, then by metric, and average each group."""
    groups: dict[Key, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        groups[key(entry)][entry.row.metric].append(entry)
    return {
        place: {
            metric: _cell(group, by_metric.get(metric + DEVIATION))
            for metric, group in by_metric.items()
            if not metric.endswith(DEVIATION)
        }
        for place, by_metric in groups.items()
    }


def _cell(group: list[Entry], stated: list[Entry] | None) -> Cell:
    rows = tuple(dict.fromkeys(entry.row for entry in group))
    faults = sorted(filter(None, (fault(row.metric, row.value) for row in rows)))
    if faults:
        return Cell(nan, None, rows, fault=faults[0])
    deviation = stdev(row.value for row in rows) if len(rows) > 1 else None
    if len(rows) == 1 and stated and not fault(stated[0].row.metric, stated[0].row.value):
        deviation = stated[0].row.value
    distinct = {(row.seed, row.value) for row in rows}
    repeated = len({seed for seed, _ in distinct}) < len(distinct)
    return Cell(fmean(row.value for row in rows), deviation, rows, repeated)
