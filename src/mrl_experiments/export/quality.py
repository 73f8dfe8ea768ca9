"""What result rows say of a run, by dim, with intervals where they are known: a table and a figure."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.embeddings import LABELS
from mrl_experiments.errors import UserError
from mrl_experiments.limits import require_address_space
from mrl_experiments.metric_names import MISSING, SHARES, Metric, metric
from mrl_experiments.result_files import find_rows
from mrl_experiments.results import NATIVE, ResultRow, Setting
from mrl_experiments.runs import Run
from mrl_experiments.text_tables import markdown_rows

MOST = 4  # columns of the table
SCORES = {  # of each evaluation, the most informative first
    "linear": "top1",
    "knn": "top1",
    "retrieval": "mAP@10",
    "cross_modal": "recall@1",
    "ir": "nDCG@10",
    "language": "bits_per_byte",
    "agreement": "overlap@10",
}
CALLED = {"linear": "classifier", "knn": "k-NN", "cross_modal": "images and texts"}


@dataclass(frozen=True)
class Column:
    """One metric of one evaluation of a split.

    Attributes:
        title: Its heading.
        metric: The metric's name in rows.
        values: {dim: (value, low, high)}; the ends are NaN where no interval is known.
    """

    title: str
    metric: str
    values: Mapping[int, tuple[float, float, float]]


def columns(run: Run) -> list[Column]:
    """Return what the rows of a run say, the most informative first, at most MOST columns.

    Intervals are those of the rows where they have some; of shares of samples, top-1 and the like, Wilson's
    for as many samples as the embeddings have.
    """
    rows: list[ResultRow] = []
    with suppress(UserError):  # there are none; damaged files are named by evaluate.py and report.py
        rows, _ = find_rows(f"{escape(str(run.folder))}/results/*.csv")
    rows = [row for row in rows if row.reduction == "prefix" and row.trained and NATIVE not in row.label]
    groups: dict[tuple[str, str, str, Setting, str], dict[int, float]] = {}
    for row in rows:
        key = (row.evaluation, row.dataset, row.split, Setting(row.setting), row.metric)
        groups.setdefault(key, {})[row.dim] = row.value
    chosen = {}
    for key, values in groups.items():
        evaluation, _, _, setting, name = key
        if SCORES.get(evaluation) != name or not _usual(setting):
            continue
        spread = groups.get((*key[:4], f"{name}_ci95"), {})
        chosen[key] = Column(_title(key), name, _with_intervals(run, key, values, spread))
    order = sorted(chosen, key=lambda key: ([*SCORES].index(key[0]), key[2] != "val", str(key)))
    return [chosen[key] for key in order[:MOST]]


def _usual(setting: Setting) -> bool:
    return not setting or dict(setting) in ({"k": 1}, {"k": 10})


def _title(key: tuple[str, str, str, Setting, str]) -> str:
    evaluation, dataset, split, setting, name = key
    shown = f" {setting}" if setting else ""
    return f"{metric(name).title}, {CALLED.get(evaluation, evaluation)}{shown}, {dataset} {split}"


def _with_intervals(
    run: Run, key: tuple[str, str, str, Setting, str], values: Mapping[int, float], half: Mapping[int, float]
) -> dict[int, tuple[float, float, float]]:
    _, dataset, split, _, name = key
    count = samples(run, dataset, split) if name == "top1" else 0
    ends = {dim: (value - half[dim], value + half[dim]) for dim, value in values.items() if dim in half}
    if count:
        ends = {dim: wilson(value, count) for dim, value in values.items()} | ends
    nothing = (math.nan, math.nan)
    return {dim: (value, *ends.get(dim, nothing)) for dim, value in sorted(values.items())}


def samples(run: Run, dataset: str, split: str) -> int:
    """Return how many samples of a split are embedded, 0 where that is not known."""
    try:
        return len(np.load(run.embeddings(dataset, split) / LABELS, mmap_mode="r"))
    except (OSError, ValueError, UserError):
        return 0


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` samples.

    Example:
        >>> [round(end, 3) for end in wilson(0.9, 100)]
        [0.826, 0.945]
    """
    from scipy.stats import binomtest

    found = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def validated(run: Run, dims: Sequence[int]) -> list[Column]:
    """Return the last validation of a run without rows: top-1 or, without labels, its loss."""
    validation = (run.summary() or {}).get("validation", {})
    name = "top1" if all("top1" in values for values in validation.values()) else "loss"
    values = {dim: validation[str(dim)][name] for dim in dims if str(dim) in validation}
    if not values:
        return []
    missing = (math.nan, math.nan)
    title = f"{metric(name).title}, last validation"
    return [Column(title, name, {dim: (value, *missing) for dim, value in values.items()})]


def table(found: Sequence[Column]) -> str:
    """Return a Markdown table, a line for each dim."""
    lines = [["dim", "bytes, float32", *(column.title for column in found)]]
    for dim in sorted({dim for column in found for dim in column.values}):
        lines.append([str(dim), f"{4 * dim:,}", *(_cell(column, dim) for column in found)])
    return markdown_rows(lines)


def _cell(column: Column, dim: int) -> str:
    if dim not in column.values:
        return MISSING
    how, (value, low, high) = metric(column.metric), column.values[dim]
    form = ".4g" if how.digits is None else f".{how.digits}f"
    ends = "" if math.isnan(low) else f" [{low * how.scale:{form}}, {high * how.scale:{form}}]"
    return f"{value * how.scale:{form}}{ends}"


def draw(found: Sequence[Column], path: Path, name: str) -> bool:
    """Draw shares by dim, with their intervals, as a PNG file; False where too few addresses are allowed."""
    import pandas as pd

    from mrl_experiments.line_chart import DIMS, Line, line_chart
    from mrl_experiments.vega import COLOURS, V8_NEEDS, pictures

    try:
        require_address_space(V8_NEEDS, "drawing the figure", "raise it")
    except UserError:
        return False
    points: list[dict[str, Any]] = []
    for column, colour in zip(found, COLOURS, strict=False):
        look = Line(column.title, "circle", colour, colour)
        for dim, (value, low, high) in column.values.items():
            shares = {"y": 100 * value, "low": 100 * low, "high": 100 * high}
            joined = len(column.values) > 2  # two points make no line
            points.append(
                {"name": column.title, "look": look, "dim": dim, "x": dim, "joined": joined} | shares
            )
    frame = pd.DataFrame(points).assign(interpolated=False, paper=False, text="", told="", source="")
    frame = frame.assign(low=frame.low.fillna(frame.y), high=frame.high.fillna(frame.y))
    spec = line_chart(frame, DIMS, Metric("share", "%"), "Quality by dim", name)
    path.write_bytes(pictures(spec, ["png"])["png"])
    return True


def are_shares(column: Column) -> bool:
    """Return whether values are shares, which the figure shows in percent."""
    return SHARES.fullmatch(column.metric) is not None


def has_intervals(column: Column) -> bool:
    """Return whether an interval of a column is known."""
    return any(not math.isnan(low) for _, low, _ in column.values.values())
