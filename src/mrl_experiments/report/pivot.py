"""Entries to tables: one grid for each data set, model and whatever else a table does not show itself."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mrl_experiments.report.cells import Cell, Key, cells, leftover, select
from mrl_experiments.report.entries import Entry
from mrl_experiments.report.lines import order
from mrl_experiments.report.metrics import DEVIATION
from mrl_experiments.report.views import Table, View

Counterparts = Mapping[str, Mapping[str, Any]]
LONGEST = 150  # bytes of a block in a file's name; file systems take names of 255
UNUSUAL = re.compile(r"[^\w.=:>% ]")  # in names of data sets, models and settings
BLOCK = ("dataset", "split", "model")
IDENTITY = ("method", "evaluation", "reduction", "dim")


@dataclass(frozen=True)
class Block:
    """What all cells of a grid, or all lines of a figure, have in common. split may be "" for several."""

    dataset: str
    split: str
    model: str
    setting: str

    @property
    def title(self) -> str:
        """The block in words."""
        return " · ".join(filter(None, (f"{self.dataset} {self.split}".strip(), self.model, self.setting)))

    @property
    def slug(self) -> str:
        """The block in a file's name."""
        parts = [part for part in (self.dataset, self.split, self.model, self.setting) if part]
        plain = "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
        if len(plain.encode()) <= LONGEST and not any(map(UNUSUAL.search, parts)):
            return plain
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]  # what else maps to the same name
        return f"{plain.encode()[:LONGEST].decode(errors='ignore')}-{digest}"


@dataclass(frozen=True)
class Column:
    """A column: its key, and the metric it shows."""

    key: Key
    metric: str


@dataclass(frozen=True)
class Grid:
    """A table of one block: ours, and the paper's cells at the same places."""

    table: Table
    block: Block
    index: list[Key]
    columns: list[Column]
    ours: dict[Key, dict[str, Cell]]
    paper: dict[Key, dict[str, Cell]]

    def cell(self, row: Key, column: Column, *, paper: bool = False) -> Cell | None:
        """Return a cell, or None where it is missing."""
        return (self.paper if paper else self.ours).get((*row, *column.key), {}).get(column.metric)

    def in_paper(self, column: Column) -> bool:
        """Whether the paper has any value in a column."""
        return any(self.cell(row, column, paper=True) for row in self.index)


def grids(
    table: Table, ours: Sequence[Entry], paper: Sequence[Entry], counterparts: Counterparts
) -> list[Grid]:
    """Return the table of each block that our rows have values for."""
    shown = _shown(table)
    found = []
    for block, entries in blocks(ours, table, shown).items():
        if any(entry.row.metric in table.metrics for entry in entries):
            theirs = beside(paper, table, block, shown, counterparts)
            found.append(_grid(_told_apart(table, entries), block, entries, theirs))
    return found


def _shown(table: Table) -> tuple[str, ...]:
    return tuple(name for name in (*table.index, *table.columns) if name != "metric")


def _told_apart(table: Table, entries: Sequence[Entry]) -> Table:
    """Return the table with what else tells its measurements apart in its index.

    Only seeds of one method, reduction and setting share a cell. Runs of one seed differ in something that
    rows don't say: then the run itself tells them apart.
    """
    places: dict[Key, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.row.metric.removesuffix(DEVIATION) in table.metrics:
            places[(entry.row.metric, *(entry.get(name) for name in _shown(table)))].append(entry)
    settings = dict.fromkeys(name for group in places.values() for entry in group for name in entry.settings)
    names = [*IDENTITY, *settings]
    more = [n for n in names if any(len({e.get(n) for e in group}) > 1 for group in places.values())]
    table = replace(table, index=(*table.index, *more))
    seeds: dict[Key, dict[float, str]] = defaultdict(dict)
    for place, group in places.items():
        for entry in group:
            key = (*place, *(entry.get(name) for name in more), entry.row.seed)
            seeds[key].setdefault(entry.row.value, entry.row.run)
    twice = any(len({*runs.values()}) > 1 for runs in seeds.values())
    return replace(table, index=(*table.index, "run")) if twice else table


def blocks(found: Sequence[Entry], view: View, shown: Sequence[str]) -> dict[Block, list[Entry]]:
    """Split the entries that a view shows into blocks, in the order of their names.

    A block without any variant of the view's ablation is left out.
    """
    split: dict[Block, list[Entry]] = {}
    for entry in select(found, view):
        place = {name: "" if name in shown else str(entry.get(name)) for name in BLOCK}
        split.setdefault(Block(**place, setting=leftover(entry, view, shown)), []).append(entry)
    shown_blocks = {
        block: entries
        for block, entries in split.items()
        if not view.ablation or any(entry.row.label for entry in entries)
    }
    return dict(sorted(shown_blocks.items(), key=lambda item: item[0].title))


def beside(
    paper: Sequence[Entry], view: View, block: Block, shown: Sequence[str], counterparts: Counterparts
) -> list[Entry]:
    """Return the paper's entries that stand beside a block, under our names of its data set and splits."""
    counterpart = counterparts.get(block.dataset, {})
    datasets = counterpart.get("dataset", block.dataset)  # a name, or several
    theirs = view if view.theirs is None else replace(view, settings=view.theirs)
    names = {theirs: ours for ours, theirs in counterpart.get("splits", {}).items()}
    renamed = [
        replace(
            entry,
            row=replace(entry.row, split=names.get(entry.row.split, entry.row.split)),
            home=block.dataset,
        )
        for entry in select(paper, theirs)
        if entry.row.dataset in ([datasets] if isinstance(datasets, str) else datasets)
    ]
    return [
        entry
        for entry in renamed
        if block.split in ("", entry.row.split) and leftover(entry, view, shown) in ("", block.setting)
    ]


def _grid(table: Table, block: Block, ours: list[Entry], paper: list[Entry]) -> Grid:
    shown = _shown(table)
    columns = [name for name in table.columns if name != "metric"]

    def key(names: Sequence[str]) -> Callable[[Entry], Key]:
        return lambda entry: tuple(entry.get(name) for name in names)

    def of_metrics(found: list[Entry], deviation: str) -> list[Entry]:
        return [entry for entry in found if entry.row.metric.removesuffix(deviation) in table.metrics]

    wanted = of_metrics([*ours, *paper], deviation="")
    index = sorted({key(table.index)(entry) for entry in wanted}, key=lambda k: _sortable(table.index, k))
    found = {Column(key(columns)(entry), entry.row.metric): None for entry in wanted}
    ordered = sorted(found, key=lambda c: (_sortable(columns, c.key), table.metrics.index(c.metric)))
    cells_of = [cells(of_metrics(entries, DEVIATION), key(shown)) for entries in (ours, paper)]
    return Grid(table, block, index, ordered, *cells_of)


def _sortable(names: Sequence[str], key: Key) -> list[tuple[Any, ...]]:
    return [
        (0, *order(str(value)))
        if name == "line"
        else (0, value, "")
        if isinstance(value, int)
        else (1, 0, str(value))
        for name, value in zip(names, key, strict=True)
    ]
