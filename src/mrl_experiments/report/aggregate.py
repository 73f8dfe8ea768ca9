"""From the tidy frame to tables: each measurement's mean over seeds, then one grid for each block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mrl_experiments.metric_names import MISSING, metric
from mrl_experiments.names import file_stem
from mrl_experiments.report.prepare import IDENTITY, values
from mrl_experiments.report.specs import Table, View
from mrl_experiments.report.styles import line, note, order

Counterparts = Mapping[str, Mapping[str, Any]]
Key = tuple[Any, ...]
AXES = {
    "dim": "Dims", "line": "Method", "rerank": "Re-rank dims", "shortlist": "Shortlist", "shots": "Shots",
    "direction": "Direction", "pairs": "Pairs", "policy": "Policy", "threshold": "Threshold", "drop": "Drop",
    "copy": "Run",
}  # fmt: skip
PAPER_DATA = {"align": "pairs of ALIGN", "wikipedia_books": "Wikipedia and BooksCorpus"}  # others: ImageNet's
WIDEST = 12  # columns, else lines become rows
APART = ("method", "evaluation", "reduction", "dim", "copy")  # tell two measurements of a cell apart


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each measurement: its mean over the seeds of one method, reduction and setting.

    Runs of one seed that differ in their value differ in something that rows don't say: each stands by
    itself, with its name in `copy`. mean is NaN where a value has a fault. deviation: over seeds, n - 1 in
    the denominator; of a single run the one it states, over its splits or draws. numbers: the rows' places.
    """
    distinct = frame.drop_duplicates([*IDENTITY, "seed", "value"])
    twice = distinct.duplicated([*IDENTITY, "seed"], keep=False)
    clash = twice.groupby([distinct[name] for name in IDENTITY], sort=False).transform("any")
    sound = distinct.value.where(distinct.fault == "")
    distinct = distinct.assign(copy=distinct.run.where(clash, ""), value=sound)
    groups = distinct.groupby([*IDENTITY, "copy"], sort=False)
    cells = distinct.drop_duplicates([*IDENTITY, "copy"]).reset_index(drop=True)
    cells["fault"], cells["count"] = groups.fault.max().to_numpy(), groups.size().to_numpy()
    cells["numbers"] = [[*numbers] for _, numbers in groups.number]
    cells["mean"] = np.where(cells.fault == "", groups.value.mean(), np.nan)
    spread = np.where(cells["count"] > 1, groups.value.std(), cells.stated)
    cells["deviation"] = np.where(cells.fault == "", spread, np.nan)
    return cells


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

    def named(self, view: View) -> str:
        """Return the name of the files of a view of this block."""
        return f"{view.name}-{file_stem(self.dataset, self.split, self.model, self.setting)}"


@dataclass(frozen=True)
class Column:
    """A column: its key, and the metric it shows."""

    key: Key
    metric: str


@dataclass(frozen=True)
class Grid:
    """A table of one block: ours, and the paper's cells at the same places, rows of an aggregated frame."""

    view: Table
    block: Block
    index: list[Key]
    columns: list[Column]
    ours: Mapping[tuple[Key, Column], Any]
    paper: Mapping[tuple[Key, Column], Any]

    def cell(self, row: Key, column: Column, *, paper: bool = False) -> Any | None:
        """Return a cell, or None where it is missing."""
        return (self.paper if paper else self.ours).get((row, column))

    @cached_property
    def flat(self) -> list[tuple[Column, bool]]:
        """The columns as they are written, ours before the paper's where it has one, and whose each is."""
        theirs = {column for _, column in self.paper}
        return [(c, paper) for c in self.columns for paper in ((False, True) if c in theirs else (False,))]

    @property
    def axes(self) -> list[str]:
        """The headings of the columns before the numbers."""
        return [AXES.get(name, name.replace("_", " ")) for name in self.view.index]

    def keys(self, row: Key) -> list[str]:
        """Return the cells of a row before its numbers."""
        return [_printed(name, value) for name, value in zip(self.view.index, row, strict=True)]

    def heading(self, column: Column, *, paper: bool = False) -> str:
        """Return the name of a column: its keys and, where columns differ in it, its metric with the unit."""
        names = [name for name in self.view.columns if name != "metric"]
        unit = [metric(column.metric).title] if "metric" in self.view.columns else []
        return " ".join([*map(_printed, names, column.key), *unit, *["(paper)"] * paper])

    @property
    def caption(self) -> str:
        """What the table shows, in which unit where its columns do not say it, and of what."""
        unit = "" if "metric" in self.view.columns else metric(self.view.metrics[-1]).unit
        return f"{self.view.title}{f' [{unit}]' * bool(unit)}: {self.block.title}"

    @property
    def footnote(self) -> str:
        """How many runs it is of, and what to know of the paper's values in it."""
        counts, theirs = sorted({cell.count for cell in self.ours.values()}), self.paper.values()
        runs = f"{counts[0]} run" if counts == [1] else f"{'-'.join(map(str, counts))} runs, mean ± deviation"
        named = " and ".join(sorted({PAPER_DATA.get(cell.dataset, "ImageNet") for cell in theirs}))
        paper = f" Paper: {named}, its own models." if named else ""
        odd = sorted({cell.anomaly for cell in theirs} - {""})
        beware = "".join(f" Beware of the paper's values: {one}." for one in odd)
        return f"{runs}. {MISSING}: not measured.{paper}{beware}"


def _printed(name: str, value: object) -> str:
    """Return a key's value as tables print it."""
    called = {"line": lambda key: line(key).label, "policy": note, "direction": note, "pairs": note}
    return called.get(name, str)(str(value))


def blocks(
    view: View, shown: Sequence[str], ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts
) -> Iterator[tuple[Block, pd.DataFrame, pd.DataFrame]]:
    """Split what a view shows of a frame, tidy or aggregated, into blocks, in the order of their names.

    With each comes what stands beside it of the paper's, under our names of its data set and splits. Settings
    that a view neither shows, demands nor ignores set blocks apart. A block without any variant of the view's
    ablation is left out.
    """
    frame = _select(ours, view, shown, view.settings)
    theirs = _select(paper, view, shown, view.settings if view.theirs is None else view.theirs)
    theirs = theirs[theirs.table.isin(view.paper)]
    split = pd.Series("", frame.index) if "split" in shown else frame.split
    found = [
        (Block(*map(str, key)), group)
        for key, group in frame.groupby([frame.home, split, frame.model, frame.left], sort=False)
        if not view.ablation or (group.label != "").any()
    ]
    for block, group in sorted(found, key=lambda item: item[0].title):
        counterpart = counterparts.get(block.dataset, {})
        datasets = counterpart.get("dataset", block.dataset)  # a name, or several
        splits = {theirs: ours for ours, theirs in counterpart.get("splits", {}).items()}
        beside = theirs[theirs.dataset.isin([datasets] if isinstance(datasets, str) else [*datasets])]
        beside = beside.assign(split=beside.split.replace(splits), home=block.dataset)
        fits = beside.split.isin([block.split]) | (block.split == "")
        yield block, group, beside[fits & beside.left.isin(["", block.setting])]


def _select(
    frame: pd.DataFrame, view: View, shown: Sequence[str], settings: Mapping[str, str | int]
) -> pd.DataFrame:
    """Return the rows that a view shows, a table's of its metrics alone. left: what sets its blocks apart."""
    wanted = {"with": (True, False), "without": (False,), "only": (True,)}[view.interpolated]
    ablation = frame.label.str.replace("/?[^/]*$", "", regex=True)  # of "<ablation>/<variant>", else ""
    keep = frame.evaluation.isin(view.evaluations) & (frame.role == view.role)
    keep &= frame.interpolated.isin(wanted) & ((ablation == view.ablation) | (frame.label == ""))
    if isinstance(view, Table):
        keep &= frame.metric.isin(view.metrics)
    frame = frame[keep]
    for name, pattern in settings.items():
        fits = [fnmatchcase(str(value), str(pattern)) for value in values(frame, name)]
        frame = frame[np.array(fits, dtype=bool)]
    named = {*settings, *view.settings, *view.ignore, *shown}
    left = [" ".join(f"{n}={of[n]}" for n in of if n not in named) for of in frame.settings]
    return frame.assign(left=pd.Series(left, index=frame.index, dtype=object))


def grids(table: Table, ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts) -> list[Grid]:
    """Return the table of each block that our measurements have values for."""
    shown = tuple(name for name in (*table.index, *table.columns) if name != "metric")
    found = []
    for block, cells, theirs in blocks(table, shown, ours, paper, counterparts):
        view = _fitting(table, cells, shown)
        names = [name for name in view.columns if name != "metric"]
        placed = [_placed(part, view.index, names) for part in (cells, theirs)]
        rows, columns = ({*part} for part in zip(*placed[0], *placed[1], strict=True))
        index = sorted(rows, key=lambda row: _sortable(view.index, row))
        order = sorted(columns, key=lambda c: (_sortable(names, c.key), view.metrics.index(c.metric)))
        found.append(Grid(view, block, index, order, *placed))
    return found


def _fitting(table: Table, cells: pd.DataFrame, shown: Sequence[str]) -> Table:
    """Return the table with all that tells its measurements apart, and lines as rows where it grows wide."""
    keys = [values(cells, name) for name in (*shown, "metric")]
    crowded = cells.groupby(keys, sort=False).metric.transform("size") > 1
    some, keys = cells[crowded], [key[crowded] for key in keys]
    settings = [name.removeprefix("@") for name in cells.columns if name.startswith("@")]
    more = [
        name
        for name in (*APART, *settings)
        if name not in shown and values(some, name).groupby(keys, sort=False).nunique().max() > 1
    ]
    columns = {*table.columns, "metric"}
    width = len({*zip(*(values(cells, name) for name in columns), strict=True)})
    rows = ("line",) if len(columns) > 2 and "line" in columns and width > WIDEST else ()
    left = tuple(name for name in table.columns if name not in rows)
    return replace(table, index=(*rows, *table.index, *more), columns=left)


def _placed(cells: pd.DataFrame, index: Sequence[str], columns: Sequence[str]) -> dict[Any, Any]:
    keys = ([values(cells, name) for name in names] for names in (index, columns))
    rows, of = ([*zip(*key, strict=True)] or [()] * len(cells) for key in keys)
    places = zip(rows, map(Column, of, cells.metric), strict=True)
    return dict(zip(places, cells.itertuples(index=False, name="Cell"), strict=True))


def _sortable(names: Sequence[str], key: Key) -> list[tuple[Any, ...]]:
    """Order lines as styles do, numbers before texts."""
    return [
        order(value) if name == "line" else (isinstance(value, str), value)
        for name, value in zip(names, key, strict=True)
    ]
