"""From aggregated measurements to figures: the points of one block and their Vega-Lite."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from typing import Any

import pandas as pd

from mrl_experiments.metric_names import metric, written
from mrl_experiments.report.aggregate import Block, Counterparts, blocks
from mrl_experiments.report.prepare import IDENTITY, values
from mrl_experiments.report.specs import Figure
from mrl_experiments.report.styles import SEARCHES, Line, line, note, numbered, order

UNSAID = {"", "retrieval", "flat"}  # what a line is unless its name says otherwise
PER_DIM = {"dim": 1.0, "bytes": 4.0}  # float32
LONGEST = 60  # characters of a name in a legend
LEGEND = {"title": None, "labelLimit": 320, "symbolSize": 70}
SHOWN = ("name", "text", "dim", "x", "told", "source", "y", "low", "high", "paper", "joined", "mark")
SAME = [*(name for name in IDENTITY if name != "metric"), "copy", "paper"]


@dataclass(frozen=True)
class Chart:
    """A figure of one block. points: as shown, and how each is named, drawn and described."""

    view: Figure
    block: Block
    points: pd.DataFrame

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The figure in Vega-Lite, for its files and the page alike.

        Points with a text in `mark` are ringed and named. Solid lines and filled marks are ours, dashed and
        hollow ones the paper's; `usermeta.dark` holds the colours for a dark ground.
        """
        points, title, where = self.points, self.view.title, self.block.title
        looks = dict(zip(points.name, points.look, strict=True))
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": 440, "height": 280,
            "title": {"text": title, "subtitle": where[:110], "anchor": "start"},
            "description": f"{title}: {where}",
            "data": {"values": points[[name for name in SHOWN if name in points]].to_dict("records")},
            "params": [{"name": "ownOrPaper", "value": True}],
            "transform": [{"filter": "ownOrPaper || !datum.paper"}],
            "encoding": _encoding(points, self.view, looks), "layer": _layers(points, self.view, looks),
            "config": {"font": "DejaVu Sans, sans-serif", "view": {"stroke": None}},
            "usermeta": {"dark": [look.dark for look in looks.values()]},
        }  # fmt: skip


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
    linked = [not {*part}.isdisjoint(figure.joined) for part in series]
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


def _encoding(points: pd.DataFrame, figure: Figure, looks: Mapping[str, Line]) -> dict[str, Any]:
    """Return what all layers share: axes, and a colour for each line."""
    x, y = metric(figure.x), metric(figure.y)
    base = 10 if x.unit in ("MFLOPs", "ms") else 2
    axis: dict[str, Any] = {"grid": False, "format": "~g", "labelOverlap": "greedy", "labelSeparation": 5}
    if figure.x == "dim":
        axis["values"] = []
        for dim in sorted({*points.dim[~points.interpolated].tolist()}, reverse=True):
            if not axis["values"] or axis["values"][-1] >= 1.4 * dim:  # else labels hide each other
                axis["values"].append(dim)
    # At least one point of percent, or a twentieth of the value.
    low, high = float(points.low.min()), float(points.high.max())
    least = 1.0 if y.unit in ("%", "points") else abs(high) / 20 or 1.0
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    domain = [max(low - room, 0.0 if low >= 0 else low - room), high + room]
    return {
        "x": {"field": "x", "type": "quantitative", "title": x.title, "axis": axis,
              "scale": {"type": "log", "base": base, "nice": False, "padding": 14}},
        "y": {"field": "y", "type": "quantitative", "title": y.title,
              "scale": {"domain": domain, "zero": False, "nice": False}},
        "color": _by_line(looks, "light"), "detail": {"field": "paper"},
        "opacity": {"condition": {"param": "picked", "value": 1}, "value": 0.07},
    }  # fmt: skip


def _by_line(looks: Mapping[str, Line], what: str) -> dict[str, Any]:
    scale = {"domain": [*looks], "range": [getattr(look, what) for look in looks.values()]}
    return {"field": "name", "type": "nominal", "legend": LEGEND, "scale": scale}


def _layers(points: pd.DataFrame, figure: Figure, looks: Mapping[str, Line]) -> list[dict[str, Any]]:
    """Return lines, bars of deviations, the paper's marks below ours, and rings around what is named."""

    def layer(mark: str, keep: str, encoding: dict[str, Any], **how: Any) -> dict[str, Any]:
        return {"mark": {"type": mark, **how}, "transform": [{"filter": keep}], "encoding": encoding}

    x, y = metric(figure.x).title, metric(figure.y).title
    tips = {"name": "line", "text": y, "dim": "dims", "x": x, "told": "setting", "source": "from"}
    tooltip = [{"field": name, "title": title, "type": "quantitative" if name in ("x", "dim") else "nominal"}
               for name, title in tips.items() if (name, figure.x) != ("x", "dim")]  # fmt: skip
    marks = {"shape": _by_line(looks, "marker"), "tooltip": tooltip}
    dash = {"strokeDash": {"condition": {"test": "datum.paper", "value": [5, 4]}, "value": [1, 0]}}
    ends = {"y": {"field": "low"}, "y2": {"field": "high"}}
    layers = [
        layer("line", "datum.joined", dash, strokeWidth=1.8),
        layer("rule", "!datum.paper && datum.high > datum.low", ends),
        layer("point", "datum.paper", marks, size=55, strokeWidth=1.5, filled=False),
        layer("point", "!datum.paper", marks, size=55, strokeWidth=1.5, filled=True),
    ]
    layers[0]["params"] = [  # the first layer alone can tie a legend to it
        {"name": "picked", "select": {"type": "point", "fields": ["name"]}, "bind": "legend"},
        {"name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"}, "bind": "scales"},
    ]
    if "mark" in points:
        left = f"datum.x < {(points.x.min() * points.x.max()) ** 0.5}"
        place = {"align": {"expr": f"{left} ? 'left' : 'right'"}, "dx": {"expr": f"{left} ? 9 : -9"},
                 "dy": {"expr": "indexof(datum.mark, '1 %') == 0 ? -15 : 20"}}  # fmt: skip
        layers.append(layer("point", "datum.mark", {}, size=230, strokeWidth=2))
        layers.append(layer("text", "datum.mark", {"text": {"field": "mark"}}, fontWeight="bold", **place))
    return layers if points.paper.any() else [part for part in layers if part is not layers[2]]
