"""From aggregated measurements to figures: the points of one block and their Vega-Lite."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from typing import Any

import pandas as pd

from mrl_experiments.line_chart import line_chart
from mrl_experiments.metric_names import metric, written
from mrl_experiments.report.aggregate import Block, Counterparts, blocks
from mrl_experiments.report.prepare import IDENTITY, values
from mrl_experiments.report.specs import Figure
from mrl_experiments.report.styles import SEARCHES, line, note, numbered, order

UNSAID = {"", "retrieval", "flat"}  # what a line is unless its name says otherwise
PER_DIM = {"dim": 1.0, "bytes": 4.0}  # float32
LONGEST = 60  # characters of a name in a legend
SAME = [*(name for name in IDENTITY if name != "metric"), "copy", "paper"]


@dataclass(frozen=True)
class Chart:
    """A figure of one block. points: as shown, and how each is named, drawn and described."""

    view: Figure
    block: Block
    points: pd.DataFrame

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The figure in Vega-Lite, for its files and the page alike."""
        title, where = self.view.title, self.block.title
        return line_chart(self.points, metric(self.view.x), metric(self.view.y), title, where)


def charts(
    figure: Figure, ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts
) -> list[Chart]:
    """Return the figure of each block in which one of our lines has a point."""
    drawn = []
    for block, cells, theirs in blocks(figure, figure.series, ours, paper, counterparts):
        parts = [cells.assign(paper=False), *[theirs.assign(paper=True)] * bool(len(theirs))]
        both = pd.concat(parts, ignore_index=True)
        settings = [name for name in both if str(name).startswith("@")]
        points = _points(figure, both.fillna(dict.fromkeys(settings, "")))
        if not points.paper.all():
            drawn.append(Chart(figure, block, _looked(figure, points)))
    return drawn


def _points(figure: Figure, cells: pd.DataFrame) -> pd.DataFrame:
    """Return what is drawn: its place, the line it belongs to, and how that line is called besides."""
    points = cells[(cells.metric == figure.y) & (cells.fault == "")].drop_duplicates(SAME)
    if figure.x in PER_DIM:
        points = points.assign(x=points.dim * PER_DIM[figure.x])
    else:
        costs = cells[cells.metric == figure.x].rename(columns={"mean": "x"})
        points = points.merge(costs[[*SAME, "x"]], on=SAME)
    points = points[points.x > 0]  # the axis is logarithmic
    first, *rest = (values(points, name).astype(str) for name in (*figure.series, "copy"))
    kinds = list(zip(points.evaluation, *rest, strict=True))
    series = [(*kind, key) for kind, key in zip(kinds, first, strict=True)]
    joined = figure.evaluations if figure.joined is None else figure.joined
    linked = [not {*part}.isdisjoint(joined) for part in series]
    notes = [" ".join(note(part) for part in kind[1:] if part not in UNSAID) for kind in kinds]
    points = points.assign(first=first, series=series, linked=linked, note=notes)
    if figure.best:
        points = points.sort_values("x", kind="stable")
        highest = points.groupby(["series", "paper"])["mean"].cummax()
        points = points[~points.assign(highest=highest).duplicated(["series", "paper", "highest"])]
    size = points.groupby(["series", "paper"]).x.transform("size")
    # Two points make no line, and a lone one of the paper's no point.
    return points[~points.paper | (size > 1)].assign(joined=points.linked & (size > 2))


def _looked(figure: Figure, points: pd.DataFrame) -> pd.DataFrame:
    """Name the lines, give each its look, and say what a chart shows of each point."""
    keys = sorted({*points["first"]}, key=order)
    known = figure.series[0] == "line"
    looks = {key: line(key) if known else numbered(key, number) for number, key in enumerate(keys)}
    scale = metric(figure.y).scale

    def shown(point: Any) -> dict[str, Any]:
        look, spread = looks[point.first], 0.0 if isnan(point.deviation) else point.deviation
        marker = next((SEARCHES[kind] for kind in SEARCHES if kind in point.series), look.marker)
        untold = [name for name in figure.ignore if name in point.settings and name not in figure.series]
        beware = f"; beware: {point.anomaly}" if point.anomaly else ""
        return {
            "look": look if point.linked else replace(look, marker=marker),
            "name": ", ".join(filter(None, (look.label, point.note)))[:LONGEST],
            "place": (point.paper, not point.linked, order(point.first)),
            "y": point.mean * scale,
            "low": (point.mean - spread) * scale,
            "high": (point.mean + spread) * scale,
            "told": " ".join(f"{name}={point.settings[name]}" for name in untold),
            "source": f"published{beware}" if point.paper else f"{point.count} run{'s' * (point.count > 1)}",
            "text": written(figure.y, point.mean, spread),
        }

    derived = pd.DataFrame([shown(p) for p in points.itertuples()], index=points.index)
    return points.assign(**derived).sort_values(["place", "name", "x"], kind="stable")
