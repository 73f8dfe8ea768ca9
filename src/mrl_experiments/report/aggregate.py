"""From the tidy frame to tables: each measurement's mean over seeds, then one grid for each block."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from mrl_experiments.report.prepare import values
from mrl_experiments.report.specs import Table, View
from mrl_experiments.report.styles import family, order

Counterparts = Mapping[str, Mapping[str, Any]]
Key = tuple[Any, ...]
LONGEST = 150  # bytes of a block in a file's name; file systems take names of 255
WIDEST = 12  # columns, else lines become rows
UNUSUAL = re.compile(r"[^\w.=:>% ]")  # in names of data sets, models and settings
BLOCK = ("dataset", "split", "model")
# What a measurement is: only its seeds are averaged.
APART = ["method", "evaluation", "reduction", "dim", "copy"]
IDENTITY = [
    "line", "model", "home", "dataset", "split", "setting", "label", "metric", "table", *APART[:-1],
]  # fmt: skip


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each measurement: its mean over the seeds of one method, reduction and setting.

    Runs of one seed that differ in their value differ in something that rows don't say: each stands by
    itself, with its name in `copy`. mean is NaN where a value has a fault. deviation: over seeds, n - 1 in
    the denominator; of a single run the one it states, over its splits or draws. numbers: the rows' places.
    """
    distinct = frame.drop_duplicates([*IDENTITY, "seed", "value"])
    twice = distinct.duplicated([*IDENTITY, "seed"], keep=False)
    clash = twice.groupby([distinct[name] for name in IDENTITY], sort=False).transform("any")
    distinct = distinct.assign(
        copy=distinct.run.where(clash, ""), sound=distinct.value.where(distinct.fault == "")
    )
    groups = distinct.groupby([*IDENTITY, "copy"], sort=False)
    cells = distinct.drop_duplicates([*IDENTITY, "copy"]).reset_index(drop=True)
    cells["fault"] = groups.fault.max().to_numpy()
    cells["count"] = groups.size().to_numpy()
    numbers: list[list[int]] = [[] for _ in cells.index]
    for group, number in zip(groups.ngroup(), distinct.number, strict=True):
        numbers[group].append(number)
    cells["numbers"] = numbers
    cells["mean"] = np.where(cells.fault == "", groups.sound.mean(), np.nan)
    spread = np.where(cells["count"] > 1, groups.sound.std(), cells.stated)
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
    """A table of one block: ours, and the paper's cells at the same places, rows of an aggregated frame."""

    view: Table
    block: Block
    index: list[Key]
    columns: list[Column]
    ours: Mapping[tuple[Key, Column], Any]
    paper: Mapping[tuple[Key, Column], Any]

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.view.name}-{self.block.slug}"

    def cell(self, row: Key, column: Column, *, paper: bool = False) -> Any | None:
        """Return a cell, or None where it is missing."""
        return (self.paper if paper else self.ours).get((row, column))

    def in_paper(self, column: Column) -> bool:
        """True if the paper has any value in a column."""
        return any((row, column) in self.paper for row in self.index)


def select(frame: pd.DataFrame, view: View) -> pd.DataFrame:
    """Return the rows of a frame, tidy or aggregated, that a view shows; a table's of its metrics alone."""
    wanted = {"with": (True, False), "without": (False,), "only": (True,)}[view.interpolated]
    keep = frame.evaluation.isin(view.evaluations) & (frame.role == view.role)
    keep &= frame.interpolated.isin(wanted)
    if isinstance(view, Table):
        keep &= frame.metric.isin(view.metrics)
    frame = frame[keep]
    frame = frame[np.array([_compared(label, view.ablation) for label in frame.label], dtype=bool)]
    for name, pattern in view.settings.items():
        texts = values(frame, name).astype(str)
        frame = frame[np.array([fnmatchcase(text, str(pattern)) for text in texts], dtype=bool)]
    return frame


def _compared(label: str, ablation: str) -> bool:
    return (not label or family(label) == ablation) if ablation else not family(label)


def blocks(frame: pd.DataFrame, view: View, shown: Sequence[str]) -> Iterator[tuple[Block, pd.DataFrame]]:
    """Split what a view shows of a frame into blocks, in the order of their names.

    A block without any variant of the view's ablation is left out.
    """
    frame = select(frame, view)
    if frame.empty:
        return
    place = {name: "" if name in shown else values(frame, name).astype(str) for name in BLOCK}
    frame = frame.assign(
        **{f"block_{name}": part for name, part in place.items()}, left=leftover(frame, view, shown)
    )
    found = [
        (Block(*map(str, key)), group)
        for key, group in frame.groupby([*(f"block_{name}" for name in BLOCK), "left"], sort=False)
        if not view.ablation or (group.label != "").any()
    ]
    yield from sorted(found, key=lambda item: item[0].title)


def leftover(frame: pd.DataFrame, view: View, used: Sequence[str]) -> list[str]:
    """Return the settings that a view neither shows, demands nor ignores: they set its blocks apart."""
    named = {*view.settings, *view.ignore, *used}
    return [
        " ".join(f"{n}={text}" for n, text in texts.items() if n not in named) for texts in frame.settings
    ]


def beside(
    paper: pd.DataFrame, view: View, block: Block, shown: Sequence[str], counterparts: Counterparts
) -> pd.DataFrame:
    """Return what of the paper's stands beside a block, under our names of its data set and splits."""
    counterpart = counterparts.get(block.dataset, {})
    datasets = counterpart.get("dataset", block.dataset)  # a name, or several
    paper = paper[paper.table.isin(view.paper)]
    found = select(paper, view if view.theirs is None else replace(view, settings=view.theirs))
    found = found[found.dataset.isin([datasets] if isinstance(datasets, str) else [*datasets])]
    names = {theirs: ours for ours, theirs in counterpart.get("splits", {}).items()}
    found = found.assign(split=found.split.replace(names), home=block.dataset)
    found = found[found.split.isin([block.split]) | (block.split == "")]
    fits = [left in ("", block.setting) for left in leftover(found, view, shown)]
    return found[np.array(fits, dtype=bool)]


def grids(table: Table, ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts) -> list[Grid]:
    """Return the table of each block that our measurements have values for."""
    shown = tuple(name for name in (*table.index, *table.columns) if name != "metric")
    found = []
    for block, cells in blocks(ours, table, shown):
        view = _fitting(table, cells, shown)
        names = tuple(name for name in view.columns if name != "metric")
        theirs = beside(paper, table, block, shown, counterparts)
        placed = [_placed(part, view.index, names) for part in (cells, theirs)]
        places = [*placed[0], *placed[1]]
        index = sorted({row for row, _ in places}, key=lambda row: _sortable(view.index, row))
        columns = sorted(
            {column for _, column in places},
            key=lambda c: (_sortable(names, c.key), view.metrics.index(c.metric)),
        )
        found.append(Grid(view, block, index, columns, *placed))
    return found


def _fitting(table: Table, cells: pd.DataFrame, shown: Sequence[str]) -> Table:
    """Return the table with all that tells its measurements apart, and lines as rows where it grows wide."""
    keys = [values(cells, name) for name in (*shown, "metric")]
    settings = [name.removeprefix("@") for name in cells.columns if name.startswith("@")]
    crowded = cells.groupby(keys, sort=False).metric.transform("size") > 1
    some, keys = cells[crowded], [key[crowded] for key in keys]
    more = [
        name
        for name in (*APART, *settings)
        if name not in shown
        and len(some)
        and values(some, name).groupby(keys, sort=False).nunique().max() > 1
    ]
    index, columns = (*table.index, *more), tuple(name for name in table.columns if name != "metric")
    width = len({*zip(*(values(cells, name) for name in (*columns, "metric")), strict=True)})
    if len(columns) > 1 and "line" in columns and width > WIDEST:
        return replace(table, index=("line", *index), columns=tuple(c for c in table.columns if c != "line"))
    return replace(table, index=index)


def _placed(
    cells: pd.DataFrame, index: Sequence[str], columns: Sequence[str]
) -> dict[tuple[Key, Column], Any]:
    def keys(names: Sequence[str]) -> list[Key]:
        listed = [values(cells, name).tolist() for name in names]
        return list(zip(*listed, strict=True)) if listed else [()] * len(cells)

    places = zip(keys(index), map(Column, keys(columns), cells.metric), strict=True)
    return dict(zip(places, cells.itertuples(index=False, name="Cell"), strict=True))


def _sortable(names: Sequence[str], key: Key) -> list[tuple[Any, ...]]:
    """Order lines as styles do, numbers before texts."""
    return [
        order(value) if name == "line" else (isinstance(value, str), value)
        for name, value in zip(names, key, strict=True)
    ]
