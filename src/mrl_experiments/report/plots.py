"""Charts as PNG and SVG files."""

import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mrl_experiments.files import atomic_path
from mrl_experiments.report.metrics import metric
from mrl_experiments.report.series import Chart, Series

INK, MUTED, GRID = "#1c1f23", "#5f6670", "#e3e6ea"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "mrl-experiments",
    "text.parse_math": False,  # a name with dollars is a name
}
SUFFIXES = (".png", ".svg")
INCHES = (6.4, 4.0)


def draw(chart: Chart, folder: Path) -> list[Path]:
    """Write a chart as PNG and SVG; our lines are solid, the paper's dashed with hollow marks."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Odd names, or more lines than there is room for, make a poor picture, no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font|constrained_layout not applied")
        canvas = Canvas(figsize=INCHES, layout="constrained")
        axes = canvas.subplots()
        _dress(axes, chart)
        for series in chart.series:
            _line(axes, series, metric(chart.figure.y).scale)
        _label(axes, chart)
        return [
            save(canvas, folder / f"{chart.figure.name}-{chart.block.slug}{suffix}") for suffix in SUFFIXES
        ]


def _dress(axes: Axes, chart: Chart) -> None:
    x, y = metric(chart.figure.x), metric(chart.figure.y)
    axes.set_title(chart.figure.title, loc="left", fontweight="bold", fontsize=11, pad=18)
    axes.text(0, 1.02, _short(chart.block.title, 90), transform=axes.transAxes, color=MUTED, va="bottom")
    axes.set_xscale("log", base=chart.base)
    costs = [point.x for series in chart.series for point in series.points]
    if chart.base == 10 and max(costs) < 100 * min(costs):  # else less than two ticks
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.set_xlabel(x.label + (f" [{x.unit}]" if x.unit else ""))
    axes.set_ylabel(f"{y.label} [{y.unit}]" if y.unit else y.label)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _line(axes: Axes, series: Series, scale: float) -> None:
    look = series.look
    xs = [point.x for point in series.points]
    ys = [point.cell.mean * scale for point in series.points]
    axes.plot(
        xs,
        ys,
        color=look.light,
        marker=series.marker,
        markersize=5,
        linewidth=1.1 if series.paper else 1.8,
        linestyle=("--" if series.paper else "-") if series.joined else "none",
        markerfacecolor="white" if series.paper else look.light,
        alpha=0.75 if series.paper else 1,
        zorder=2 if series.paper else 3,
    )
    spread = [(point.cell.deviation or 0) * scale for point in series.points]
    if not series.paper and any(spread):
        axes.errorbar(xs, ys, yerr=spread, fmt="none", ecolor=look.light, elinewidth=1, capsize=2)


def _label(axes: Axes, chart: Chart) -> None:
    """Name each look once, in the order in which the lines end; what is dashed and hollow is the paper's."""
    last = {series.name: series for series in sorted(chart.series, key=lambda series: not series.paper)}
    ordered = sorted(last.values(), key=lambda series: -series.points[-1].cell.mean)
    handles = [_handle(s.look.light, s.marker, joined=s.joined, hollow=s.paper) for s in ordered]
    # A name that begins with "_" would be left out.
    names = [re.sub("^_", " _", _short(series.name, 48)) for series in ordered]
    if any(series.paper for series in chart.series):
        handles.append(_handle(MUTED, "o", joined=True, hollow=True))
        names.append("the paper's")
    axes.legend(
        handles, names, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8,
        labelspacing=0.7, handlelength=2.6,
    )  # fmt: skip


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _handle(colour: str, marker: str, *, joined: bool, hollow: bool) -> Line2D:
    style: Any = ("--" if hollow else "-") if joined else "none"
    face = "white" if hollow else colour
    return Line2D([], [], color=colour, marker=marker, linestyle=style, markersize=5, markerfacecolor=face)


def save(canvas: Canvas, path: Path) -> Path:
    """Write a canvas as its suffix says, whole or not at all."""
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=metadata)
    return path
