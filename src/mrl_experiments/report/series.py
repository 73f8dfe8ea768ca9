"""Entries to figures: the lines of one block, ours and the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass

from mrl_experiments.report.catalogue import Figure
from mrl_experiments.report.cells import Cell, Key, cells
from mrl_experiments.report.entries import Entry
from mrl_experiments.report.lines import Line, line, order
from mrl_experiments.report.pivot import Block, Counterparts, beside, blocks


MARKERS = {"adaptive_retrieval": ".", "funnel": "*"}  # in place of the method's
UNSAID = {"", "retrieval", "flat"}  # what a line is unless its name says otherwise


@dataclass(frozen=True)
class Point:
    """A point of a line: where, the cell it shows, and at which size."""

    x: float
    cell: Cell
    dim: int
    setting: str


@dataclass(frozen=True)
class Series:
    """One line of a figure. note: what it is besides its method, such as "funnel"."""

    look: Line
    note: str
    paper: bool
    joined: bool
    marker: str
    points: list[Point]

    @property
    def name(self) -> str:
        """The line's name."""
        return ", ".join(filter(None, (self.look.label, self.note)))

    @property
    def label(self) -> str:
        """The line's name, with "paper" where it is the paper's."""
        return f"{self.name}, paper" if self.paper else self.name


@dataclass(frozen=True)
class Chart:
    """A figure of one block."""

    figure: Figure
    block: Block
    series: list[Series]


def charts(
    figure: Figure, ours: Sequence[Entry], paper: Sequence[Entry], counterparts: Counterparts
) -> list[Chart]:
    """Return the figure of each block in which one of our lines has a point."""
    drawn = []
    for block, entries in blocks(ours, figure, figure.series).items():
        lines = _series(figure, entries, paper=False)
        if lines:
            theirs = _series(figure, beside(paper, figure, block, figure.series, counterparts), paper=True)
            drawn.append(Chart(figure, block, lines + theirs))
    return drawn


def _series(figure: Figure, entries: Sequence[Entry], *, paper: bool) -> list[Series]:
    lines: dict[Key, list[Entry]] = {}
    for entry in entries:
        name = tuple(entry.get(part) for part in figure.series)
        lines.setdefault((entry.line, entry.row.evaluation, *name), []).append(entry)
    found = []
    for key, group in sorted(lines.items(), key=lambda item: (*order(str(item[0][0])), str(item[0]))):
        points = _points(figure, group)
        if points:
            note = " ".join(str(part) for part in key[2:] if part not in (key[0], *UNSAID)).replace("_", " ")
            look, evaluation = line(str(key[0])), str(key[1])
            marker = MARKERS.get(evaluation, look.marker)
            found.append(Series(look, note, paper, evaluation in figure.joined, marker, points))
    return found


def _points(figure: Figure, group: Sequence[Entry]) -> list[Point]:
    places = cells(group, lambda entry: (entry.row.dim, _setting(entry, figure)))
    points = []
    for (dim, setting), by_metric in places.items():
        x = float(dim) if figure.x == "dim" else by_metric[figure.x].mean if figure.x in by_metric else None
        if x is not None and figure.y in by_metric:
            points.append(Point(x, by_metric[figure.y], int(dim), str(setting)))
    return sorted(points, key=lambda point: point.x)


def _setting(entry: Entry, figure: Figure) -> str:
    """Tell apart the points of one line at one size: re-rank sizes, lists, thresholds."""
    names = [name for name in figure.ignore if name in entry.settings and name not in figure.series]
    return " ".join(f"{name}={entry.settings[name]}" for name in names)
