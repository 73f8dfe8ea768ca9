"""A chart of lines with deviations in Vega-Lite: of the report's files and page, and of model cards."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mrl_experiments.metric_names import Metric, metric

DIMS = metric("dim")
LEGEND = {"title": None, "labelLimit": 320, "symbolSize": 70}
SHOWN = ("name", "text", "dim", "x", "told", "source", "y", "low", "high", "paper", "joined", "mark")


@dataclass(frozen=True)
class Line:
    """The look of a line. marker: Vega's name, or a path. light, dark: its colour on either ground."""

    label: str
    marker: str
    light: str
    dark: str


def line_chart(points: pd.DataFrame, x: Metric, y: Metric, title: str, where: str) -> dict[str, Any]:
    """Return the specification of a chart of y against x, on a logarithmic axis.

    Points with a text in `mark` are ringed and named. Solid lines and filled marks are ours, dashed and
    hollow ones the paper's; `usermeta.dark` holds the colours for a dark ground.

    Args:
        points: Each with its line's name and look, its dim and whether that is interpolated, x and y, the
            ends `low` and `high` of its interval, and whether it is the paper's and joined to the next.
            Pointing at it tells its text, what else it was told (`told`) and its source.
        x: What the horizontal axis shows; `metric("dim")` names the dims at its ticks.
        y: What the vertical axis shows, in whose unit y, low and high are.
        title: Of the chart.
        where: What it is of.
    """
    looks = dict(zip(points.name, points["look"], strict=True))
    most = 100.0 if y.unit == "%" and points.y.max() <= 100 else math.inf  # a deviation may reach beyond
    points = points.assign(high=points.high.clip(upper=most))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": 440, "height": 280,
        "title": {"text": title, "subtitle": where[:110], "anchor": "start"},
        "description": f"{title}: {where}",
        "data": {"values": points[[name for name in SHOWN if name in points]].to_dict("records")},
        "params": [{"name": "ownOrPaper", "value": True}],
        "transform": [{"filter": "ownOrPaper || !datum.paper"}],
        "encoding": _encoding(points, x, y, looks, most), "layer": _layers(points, x, y, looks),
        "config": {"font": "DejaVu Sans, sans-serif", "view": {"stroke": None}},
        "usermeta": {"dark": [look.dark for look in looks.values()]},
    }  # fmt: skip


def _encoding(
    points: pd.DataFrame, x: Metric, y: Metric, looks: Mapping[str, Line], most: float
) -> dict[str, Any]:
    """Return what all layers share: axes, that of y up to `most`, and a colour for each line."""
    base = 10 if x.unit in ("MFLOPs", "ms") else 2
    axis: dict[str, Any] = {"grid": False, "format": "~g", "labelOverlap": "greedy", "labelSeparation": 5}
    if x == DIMS:
        axis["values"] = []
        for dim in sorted({*points.dim[~points.interpolated].tolist()}, reverse=True):
            if not axis["values"] or axis["values"][-1] >= 1.4 * dim:  # else labels hide each other
                axis["values"].append(dim)
    # At least one point of percent, or a twentieth of the value.
    low, high = float(points.low.min()), float(points.high.max())
    least = 1.0 if y.unit in ("%", "points") else abs(high) / 20 or 1.0
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    domain = [max(low - room, 0.0 if low >= 0 else low - room), min(high + room, most)]
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


def _layers(points: pd.DataFrame, x: Metric, y: Metric, looks: Mapping[str, Line]) -> list[dict[str, Any]]:
    """Return lines, bars of deviations, the paper's marks below ours, and rings around what is named."""

    def layer(mark: str, keep: str, encoding: dict[str, Any], **how: Any) -> dict[str, Any]:
        return {"mark": {"type": mark, **how}, "transform": [{"filter": keep}], "encoding": encoding}

    tips = {"name": "line", "text": y.title, "dim": "dims", "x": x.title, "told": "setting", "source": "from"}
    tooltip = [{"field": name, "title": title, "type": "quantitative" if name in ("x", "dim") else "nominal"}
               for name, title in tips.items() if (name, x) != ("x", DIMS)]  # fmt: skip
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
