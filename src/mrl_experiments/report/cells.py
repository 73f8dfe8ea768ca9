"""Entries to cells: one number with its deviation and the runs it came from."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from mrl_experiments.report.entries import REPEATS, Entry
from mrl_experiments.report.metrics import DEVIATION
from mrl_experiments.report.catalogue import View
from mrl_experiments.results import ResultRow

ROLES = {"val": "main", "test": "main", "query": "unseen", "stream": "stream"}
Key = tuple[str | int | bool, ...]


@dataclass(frozen=True)
class Cell:
    """A mean over the repetitions of one measurement.

    deviation: of a sample of n (n - 1 in the denominator) over repetitions; for a single run the one it
    states itself, over its own splits; else None. rows: where the number comes from.
    """

    mean: float
    deviation: float | None
    rows: tuple[ResultRow, ...]
    repeated: bool = False  # whether two runs claim the same seed: they differ in something the rows don't say

    @property
    def count(self) -> int:
        """The number of repetitions."""
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
        and all(entry.get(name) == value for name, value in view.settings.items())
    ]


def leftover(entry: Entry, view: View, used: Iterable[str]) -> str:
    """Return the settings that a view neither shows, demands nor ignores: they set its blocks apart."""
    named = {*view.settings, *view.ignore, *used, *REPEATS}
    return " ".join(f"{name}={value}" for name, value in entry.settings.items() if name not in named)


def cells(found: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, dict[str, Cell]]:
    """Group entries by key, then by metric, and average each group."""
    groups: dict[Hashable, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        groups[key(entry)][entry.row.metric].append(entry)
    return {
        place: {
            metric: _cell(group, by_metric.get(metric + DEVIATION))
            for metric, group in by_metric.items()
            if not metric.endswith(DEVIATION)
        }
        for place, by_metric in groups.items()
    }  # type: ignore[return-value]


def _cell(group: list[Entry], stated: list[Entry] | None) -> Cell:
    rows = {(entry.row.run, entry.repeat, entry.row.setting): entry for entry in group}
    values = [entry.row.value for entry in rows.values()]
    runs_of_seed = defaultdict(set)
    for run, repeat, _ in rows:
        runs_of_seed[repeat].add(run)
    deviation = stdev(values) if len(values) > 1 else stated[0].row.value if stated else None
    return Cell(
        fmean(values),
        deviation,
        tuple(entry.row for entry in rows.values()),
        any(len(runs) > 1 for runs in runs_of_seed.values()),
    )
