"""Entries to figures: the lines of one block, ours and the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass

from mrl_experiments.report.cells import Cell, Key, cells
from mrl_experiments.report.entries import Entry
from mrl_experiments.report.lines import Line, line, numbered, order
from mrl_experiments.report.pivot import Block, Counterparts, beside, blocks
from mrl_experiments.report.views import Figure

MARKERS = {  # of evaluations and policies, in place of the method's
    "adaptive_retrieval": ".", "funnel": "*", "uniform": ".", "paper": "v", "joint": "D", "risk_control": "P",
    "oracle": "*",
}  # fmt: skip
UNSAID = {"", "retrieval", "flat"}  # what a line is unless its name says otherwise
NOTES = {
    "paper": "greedy thresholds", "joint": "joint thresholds", "uniform": "one threshold",
    "single": "each size alone",
}  # fmt: skip


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

    @property
    def base(self) -> int:
        """The base of the horizontal axis' logarithm: 2 for sizes, 10 for costs and times."""
        return 10 if self.figure.x in ("MFLOPs", "network_MFLOPs", "head_MFLOPs", "latency_ms") else 2


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
    found: list[Series] = []
    for key, group in sorted(lines.items(), key=lambda item: _place(figure, item[0])):
        points = _points(figure, group)
        if len(points) > paper:  # a lone published point is where two lines meet, such as FF at full width
            first, evaluation = str(key[2]), str(key[1])
            said = " ".join(note(str(part)) for part in key[3:] if part not in UNSAID)
            look = line(first) if figure.series[0] == "line" else numbered(first, len(found))
            kinds = [evaluation, *map(str, key[3:])]
            marker = next((MARKERS[kind] for kind in kinds if kind in MARKERS), look.marker)
            found.append(Series(look, said, paper, not {*kinds}.isdisjoint(figure.joined), marker, points))
    return found


def _place(figure: Figure, key: Key) -> tuple[bool, tuple[int, str], str]:
    return {*key}.isdisjoint(figure.joined), order(str(key[0])), str(key)


def note(part: str) -> str:
    """Return how an evaluation, a policy or another part of a line is called."""
    return NOTES.get(part, part.replace("_", " "))


def _points(figure: Figure, group: Sequence[Entry]) -> list[Point]:
    places = cells(group, lambda entry: (entry.row.dim, _setting(entry, figure)))
    points = []
    for (_, setting), by_metric in places.items():
        if figure.y in by_metric and (figure.x == "dim" or figure.x in by_metric):
            shown = by_metric[figure.y]
            dim = shown.rows[0].dim
            x = dim if figure.x == "dim" else by_metric[figure.x].mean
            if shown.fault or not x > 0:  # the axis is logarithmic
                continue
            points.append(Point(float(x), shown, dim, str(setting)))
    return sorted(points, key=lambda point: point.x)


def _setting(entry: Entry, figure: Figure) -> str:
    """Tell apart the points of one line at one size: re-rank sizes, lists, thresholds."""
    names = [name for name in figure.ignore if name in entry.settings and name not in figure.series]
    return " ".join(f"{name}={entry.settings[name]}" for name in names)
