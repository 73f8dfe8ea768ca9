"""From aggregated measurements to figures: the points of one block and their Vega-Lite."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from mrl_experiments.report.aggregate import IDENTITY, Block, Counterparts, beside, blocks
from mrl_experiments.report.metrics import Metric, metric, written
from mrl_experiments.report.prepare import values
from mrl_experiments.report.specs import Figure
from mrl_experiments.report.styles import HEXAGON, STAR, THIN, Line, line, numbered, order

MARKERS = {  # of ways to search one line
    "funnel": STAR, "ivf": "triangle-right", "hnsw32": "cross", "auto": HEXAGON, "adaptive_retrieval": THIN,
    "uniform": THIN, "joint": "diamond", "risk_control": "cross", "oracle": STAR,
}  # fmt: skip
UNSAID = {"", "retrieval", "flat"}  # what a line is unless its name says otherwise
NOTES = {
    "paper": "greedy thresholds", "joint": "joint thresholds", "uniform": "one threshold",
    "single": "each dim alone",
}  # fmt: skip
COSTS = ("MFLOPs", "network_MFLOPs", "head_MFLOPs", "latency_ms")
LONGEST = 60  # characters of a name in a legend
SAME = [name for name in IDENTITY if name != "metric"] + ["copy"]


@dataclass(frozen=True)
class Chart:
    """A figure of one block. points: as shown, and how each is named, drawn and described."""

    view: Figure
    block: Block
    points: pd.DataFrame

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.view.name}-{self.block.slug}"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The figure in Vega-Lite, for its files and the page alike."""
        base = 10 if self.view.x in COSTS else 2
        return vega(
            self.points, metric(self.view.x), metric(self.view.y), base, self.view.title, self.block.title
        )


def charts(
    figure: Figure, ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts
) -> list[Chart]:
    """Return the figure of each block in which one of our lines has a point."""
    drawn = []
    for block, cells in blocks(ours, figure, figure.series):
        points = _points(figure, cells, paper=False)
        if len(points):
            theirs = _points(figure, beside(paper, figure, block, figure.series, counterparts), paper=True)
            both = pd.concat([part for part in (points, theirs) if len(part)], ignore_index=True)
            drawn.append(Chart(figure, block, _looked(figure, both)))
    return drawn


def _points(figure: Figure, cells: pd.DataFrame, *, paper: bool) -> pd.DataFrame:
    points = cells[(cells.metric == figure.y) & (cells.fault == "")].drop_duplicates(SAME)
    if figure.x == "dim":
        points = points.assign(x=points.dim.astype(float))
    else:
        costs = cells[cells.metric == figure.x].rename(columns={"mean": "x"})
        points = points.merge(costs[[*SAME, "x"]], on=SAME)
    points = points[points.x > 0].assign(paper=paper)  # the axis is logarithmic
    parts = [values(points, name).astype(str) for name in ("copy", *figure.series[1:])]
    first = values(points, figure.series[0]).astype(str)
    kinds = list(zip(points.evaluation, *parts, strict=True))
    return points.assign(
        first=first,
        note=[" ".join(note(part) for part in kind[1:] if part not in UNSAID) for kind in kinds],
        linked=[
            not {first_part, *kind}.isdisjoint(figure.joined)
            for first_part, kind in zip(first, kinds, strict=True)
        ],
        series=[(*kind, first_part) for first_part, kind in zip(first, kinds, strict=True)],
    )


def _looked(figure: Figure, points: pd.DataFrame) -> pd.DataFrame:
    """Name the lines and give each its look. Two points make no line, a lone one of the paper's no point."""
    size = points.groupby(["series", "paper"]).x.transform("size")
    points = points[~points.paper | (size > 1)].assign(joined=points.linked & (size > 2))
    firsts = sorted({*points["first"]}, key=order)
    known = figure.series[0] == "line"
    looks = {key: line(key) if known else numbered(key, number) for number, key in enumerate(firsts)}
    points["look"] = [
        replace(looks[first], marker=looks[first].marker if linked else _marker(kind, looks[first].marker))
        for first, kind, linked in zip(points["first"], points.series, points.linked, strict=True)
    ]
    points["name"] = [
        ", ".join(filter(None, (look.label, said)))[:LONGEST]
        for look, said in zip(points.look, points.note, strict=True)
    ]
    points["place"] = [(paper, not join, order(first)) for paper, join, first in
                       zip(points.paper, points.linked, points["first"], strict=True)]  # fmt: skip
    points = points.sort_values(["place", "name", "x"], kind="stable")
    return described(points, figure.y, [name for name in figure.ignore if name not in figure.series])


def _marker(kinds: tuple[str, ...], usual: str) -> str:
    return next((marker for kind, marker in MARKERS.items() if kind in kinds), usual)


def described(points: pd.DataFrame, y: str, settings: Sequence[str] = ()) -> pd.DataFrame:
    """Add to points with `look`, `name`, `paper`, `joined` and `x` what a chart shows of each."""
    scale = metric(y).scale
    spread = points.deviation.fillna(0) * scale
    told = [" ".join(f"{n}={texts[n]}" for n in settings if n in texts) for texts in points.settings]
    source = [
        f"published{f'; beware: {odd}' if odd else ''}" if paper else f"{count} run{'s' * (count > 1)}"
        for paper, odd, count in zip(points.paper, points.anomaly, points["count"], strict=True)
    ]
    text = [written(y, *pair) for pair in zip(points["mean"], points.deviation.fillna(0), strict=True)]
    y_shown = points["mean"] * scale
    ends = {"low": y_shown - spread, "high": y_shown + spread}
    return points.assign(y=y_shown, **ends, told=told, source=source, text=text)


def note(part: str) -> str:
    """Return how an evaluation, a policy or another part of a line is called."""
    return NOTES.get(part, part.replace("_", " "))


def vega(points: pd.DataFrame, x: Metric, y: Metric, base: int, title: str, where: str) -> dict[str, Any]:
    """Return points as a Vega-Lite chart.

    points: of `described`. Those with a text in `mark` are ringed and named. Solid lines and filled marks are
    ours, dashed and hollow ones the paper's; `usermeta.dark` holds the colours for a dark ground.
    """
    looks: dict[str, Line] = dict(zip(points.name, points.look, strict=True))
    tips = {"name": "line", "text": y.title, "dim": "dims", "x": x.title, "told": "setting", "source": "from"}
    shown = [*tips, "y", "low", "high", "paper", "joined", *["mark"] * ("mark" in points)]
    axis: dict[str, Any] = {"grid": False, "format": "~g", "labelOverlap": "greedy", "labelSeparation": 5}
    if x.label == "dims":
        del tips["x"]
        axis["values"] = sorted({*points.dim[~points.interpolated].tolist()})
    of_line = {
        "field": "name",
        "type": "nominal",
        "legend": {"title": None, "labelLimit": 320, "symbolSize": 70},
    }
    common = {
        "x": {"field": "x", "type": "quantitative", "title": x.title, "axis": axis,
              "scale": {"type": "log", "base": base, "nice": False, "padding": 14}},
        "y": {"field": "y", "type": "quantitative", "title": y.title,
              "scale": {"domain": _domain(points, y.unit), "zero": False, "nice": False}},
        "color": {**of_line, "scale": {"domain": [*looks], "range": [look.light for look in looks.values()]}},
        "opacity": {"condition": {"param": "picked", "value": 1}, "value": 0.07},
        "detail": {"field": "paper"},
    }  # fmt: skip
    shape = {**of_line, "scale": {"domain": [*looks], "range": [look.marker for look in looks.values()]}}
    tip = [{"field": name, "title": text, "type": "quantitative" if name in ("x", "dim") else "nominal"}
           for name, text in tips.items()]  # fmt: skip
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": 440, "height": 280,
        "title": {"text": title, "subtitle": where[:110], "anchor": "start"},
        "description": f"{title}: {where}", "data": {"values": points[shown].to_dict("records")},
        "params": [{"name": "ownOrPaper", "value": True}],
        "transform": [{"filter": "ownOrPaper || !datum.paper"}],
        "layer": _layers(points, common, {"shape": shape, "tooltip": tip}),
        "config": {"font": "DejaVu Sans, sans-serif", "view": {"stroke": None}},
        "usermeta": {"dark": [look.dark for look in looks.values()]},
    }  # fmt: skip


def _layers(points: pd.DataFrame, common: dict[str, Any], marks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return lines, bars of deviations, the paper's marks below ours, and rings around what is named."""

    def layer(mark: dict[str, Any], keep: str, encoding: dict[str, Any]) -> dict[str, Any]:
        return {"mark": mark, "transform": [{"filter": keep}], "encoding": common | encoding}

    dash = {"condition": {"test": "datum.paper", "value": [5, 4]}, "value": [1, 0]}
    bar = {"y": {**common["y"], "field": "low"}, "y2": {"field": "high"}}
    point = {"type": "point", "size": 55, "strokeWidth": 1.5}
    layers = [
        layer({"type": "line", "strokeWidth": 1.8}, "datum.joined", {"strokeDash": dash}),
        layer({"type": "rule"}, "!datum.paper && datum.high > datum.low", bar),
        *[layer({**point, "filled": False}, "datum.paper", marks)] * bool(points.paper.any()),
        layer({**point, "filled": True}, "!datum.paper", marks),
    ]
    layers[0]["params"] = [  # the first layer alone can tie a legend to it
        {"name": "picked", "select": {"type": "point", "fields": ["name"]}, "bind": "legend"},
        {"name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"}, "bind": "scales"},
    ]
    if "mark" in points:
        layers.append(layer({"type": "point", "size": 230, "strokeWidth": 2}, "datum.mark", {}))
        text = {"type": "text", "dy": -15, "fontWeight": "bold"}
        layers.append(layer(text, "datum.mark", {"text": {"field": "mark"}}))
    return layers


def _domain(points: pd.DataFrame, unit: str) -> list[float]:
    """Return the ends of the vertical axis: at least one point of percent, or a twentieth of the value."""
    low, high = float(points.low.min()), float(points.high.max())
    least = 1.0 if unit in ("%", "points") else abs(high) / 20 or 1.0
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    return [max(low - room, 0.0 if low >= 0 else low - room), high + room]
