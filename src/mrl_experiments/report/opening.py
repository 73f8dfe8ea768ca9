"""What the page opens with: how few dims a representation needs, in three sentences and one figure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mrl_experiments.metric_names import LESS, metric, written
from mrl_experiments.report.aggregate import Block
from mrl_experiments.report.curves import Chart, charts
from mrl_experiments.report.specs import Figure
from mrl_experiments.report.styles import line, order

NEAR = (0.01, 0.05)  # how far from full quality, as shares of it
QUALITIES: tuple[tuple[str, str, dict[str, str | int], str], ...] = (
    # What is asked first: evaluation, metric, settings, and what it is called.
    ("linear", "top1", {}, "accuracy of the trained classifiers"),
    ("retrieval", "mAP@10", {}, "retrieval"),
    ("knn", "top1", {"k": 1}, "1-NN accuracy"),
    ("zero_shot", "top1", {}, "zero-shot accuracy"),
    ("cross_modal", "recall@1", {"direction": "*"}, "retrieval between images and texts"),
    ("language", "bits_per_byte", {}, "language model"),
    ("language", "top1", {}, "tokens found"),
)
TIMED = ("adaptive_retrieval", "funnel", "auto_retrieval")


@dataclass(frozen=True)
class Story:
    """The answer for one block by one measure: sentences, and charts of quality against bytes and time."""

    block: Block
    measure: str
    sentences: list[str]
    specs: list[dict[str, Any]]


def stories(cells: pd.DataFrame) -> list[Story]:
    """Return the answer for each data set, model and measure of it, the best measured first."""
    found: list[tuple[int, str, int, Story]] = []
    for role in ("main", "unseen"):
        timed = {(chart.block.dataset, chart.block.model): chart for chart in _timed(cells, role)}
        for evaluation, name, settings, called in QUALITIES:
            figure = Figure(
                name="", title=called, evaluations=(evaluation,), x="bytes", y=name, settings=settings,
                role=role, interpolated="with",
            )  # fmt: skip
            for chart in charts(figure, cells, cells[:0], {}):
                dataset, model = chart.block.dataset, chart.block.model
                here = (cells.home == dataset) & (cells.model == model) & (cells.role == role)
                if chart.points.groupby("line").dim.nunique().max() > 1:
                    story = _story(chart, timed.get((dataset, model)))
                    found.append((-int(here.sum()), chart.block.title, len(found), story))
    return [story for *_, story in sorted(found)]


def _story(chart: Chart, timed: Chart | None) -> Story:
    points, block, name = chart.points, chart.block, chart.view.y
    widths = points.groupby("line").dim.nunique()
    main = min(widths[widths > 1].index, key=lambda key: (order(key), -widths[key]))
    own = points[points.line == main].sort_values("dim").drop_duplicates("dim")
    full, one, five = own.iloc[-1], *(_cheapest(own, "dim", share, name) for share in NEAR)
    shares = "1 %, 5 %" if one.dim == five.dim else "1 %"
    marks = {five.name: f"5 %: {five.dim} dims", one.name: f"{shares}: {one.dim} dims"}
    points["mark"] = [marks.get(place, "") for place in points.index]
    small, large = int(one.x), int(full.x)
    said = [written(name, point["mean"]) for point in (one, full, five)]
    sentences = [
        f"{line(main).label} on {block.dataset} {block.split} ({block.model}): {one.dim} of {full.dim}"
        f" dims are within 1 % of full quality ({said[0]} of {said[1]}, {metric(name).title}),"
        f" {five.dim} within 5 % ({said[2]}).",
        f"{one.dim} dims are {small:,} bytes per vector in float32 in place of {large:,}: a million"
        f" vectors take {small:,} MB in place of {large:,} MB.",
    ]
    others = points[(points.dim == one.dim) & (points.line != main)]
    if timed:
        best = timed.points
        fast, slow = best[best["mark"] != ""].iloc[0], best.iloc[-1]
        sentences.append(
            f"On the clock, the fastest search within 1 % of the best mAP@10 takes {fast.x:.3g} ms per query,"
            f" the best one {slow.x:.3g} ms ({fast.text} and {slow.text} %)."
        )
    elif others.empty:
        sentences.append("No search was timed: evaluation=adaptive_retrieval measures the time per query.")
    else:
        best = others.loc[others["mean"].idxmin() if name in LESS else others["mean"].idxmax()]
        both = f"{written(name, best['mean'])} beside {said[0]} ({metric(name).title})"
        label = line(best.line).label
        sentences.append(f"At {one.dim} dims the best of the other lines is {label} with {both}.")
    return Story(block, chart.view.title, sentences, [part.spec for part in (chart, timed) if part])


def _cheapest(points: pd.DataFrame, cost: str, share: float, name: str) -> Any:
    """Return the cheapest point whose quality is within a share of that of the last."""
    full = points.iloc[-1]["mean"]
    near = points["mean"] <= full * (1 + share) if name in LESS else points["mean"] >= full * (1 - share)
    return points[near].sort_values(cost).iloc[0]


def _timed(cells: pd.DataFrame, role: str) -> Iterator[Chart]:
    """Yield the searches of the best line whose time is known: those that no other beats in both respects."""
    figure = Figure(
        name="", title="How little time? The best searches", evaluations=TIMED, x="latency_ms", y="mAP@10",
        role=role, series=("line", "evaluation", "index"), joined=(),
        ignore=("rerank", "shortlist", "stages"), interpolated="with", best=True,
    )  # fmt: skip
    for chart in charts(figure, cells, cells[:0], {}):
        points = chart.points[chart.points.line == min(chart.points.line, key=order)].sort_values("x")
        best = points[~points["mean"].cummax().duplicated()]
        fast = _cheapest(best, "x", NEAR[0], "mAP@10")
        marks = [f"1 %: {fast.x:.3g} ms" if place == fast.name else "" for place in best.index]
        yield Chart(figure, chart.block, best.assign(mark=marks))
