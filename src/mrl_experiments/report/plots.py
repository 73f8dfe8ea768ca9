"""Charts as PNG and SVG files."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from mrl_experiments.files import atomic_path
from mrl_experiments.report.metrics import metric
from mrl_experiments.report.series import Chart, Series

INK, MUTED, GRID = "#1c1f23", "#5f6670", "#e3e6ea"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "mrl-experiments",
}
INCHES = (6.4, 4.0)


def draw(chart: Chart, folder: Path) -> list[Path]:
    """Write a chart as PNG and SVG and return their paths. Our lines are solid, the paper's dashed and hollow."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=INCHES, layout="constrained")
        axes = canvas.subplots()
        _dress(axes, chart)
        for series in chart.series:
            _line(axes, series, metric(chart.figure.y).scale)
        _label(axes, chart)
        return [_save(canvas, folder / f"{chart.figure.name}-{chart.block.slug}{suffix}") for suffix in (".png", ".svg")]


def _dress(axes: Axes, chart: Chart) -> None:
    x, y = metric(chart.figure.x), metric(chart.figure.y)
    axes.set_title(chart.figure.title, loc="left", fontweight="bold", fontsize=11, pad=18)
    axes.text(0, 1.02, chart.block.title, transform=axes.transAxes, color=MUTED, va="bottom")
    axes.set_xscale("log", base=2 if chart.figure.x != "MFLOPs" else 10)
    axes.set_xlabel(x.label + (f" [{x.unit}]" if x.unit else ""))
    axes.set_ylabel(f"{y.label} [{y.unit}]" if y.unit else y.label)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.figure.x == "dim":
        dims = sorted({point.x for series in chart.series for point in series.points})
        halvings = [dim for dim in dims if _power_of_two(dim)] or dims
        axes.xaxis.set_major_locator(FixedLocator(halvings))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())


def _line(axes: Axes, series: Series, scale: float) -> None:
    look = series.look
    xs = [point.x for point in series.points]
    ys = [point.cell.mean * scale for point in series.points]
    axes.plot(
        xs,
        ys,
        color=look.light,
        marker=look.marker,
        markersize=5,
        linewidth=1.1 if series.paper else 1.8,
        linestyle=("--" if series.paper else "-") if series.joined else "none",
        markerfacecolor="white" if series.paper else look.light,
        alpha=0.75 if series.paper else 1,
        label=series.label,
        zorder=2 if series.paper else 3,
    )
    spread = [(point.cell.deviation or 0) * scale for point in series.points]
    if not series.paper and any(spread):
        axes.errorbar(xs, ys, yerr=spread, fmt="none", ecolor=look.light, elinewidth=1, capsize=2)


def _label(axes: Axes, chart: Chart) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        fontsize=8,
        labelspacing=0.7,
        handlelength=2.6,
    )


def _power_of_two(dim: float) -> bool:
    return dim.is_integer() and int(dim).bit_count() == 1


def _save(canvas: Canvas, path: Path) -> Path:
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=metadata)
    return path
