"""What the page opens with: how few dims a representation needs, in three sentences and one figure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mrl_experiments.report.aggregate import Block, blocks
from mrl_experiments.report.curves import described, vega
from mrl_experiments.report.metrics import LESS, metric, written
from mrl_experiments.report.specs import Figure
from mrl_experiments.report.styles import line, order

BYTES = 4  # of a feature, float32
NEAR = (0.01, 0.05)  # how far from full quality, as shares of it
QUALITIES: tuple[
    tuple[str, str, dict[str, Any], str], ...
] = (  # what is asked first: evaluation, metric, settings, and what it is called
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
    rows: int


def stories(cells: pd.DataFrame) -> list[Story]:
    """Return the answer for each data set, model and measure of it, the best measured first."""
    found = [
        story
        for evaluation, name, settings, called in QUALITIES
        for role in ("main", "unseen")
        for story in _stories(cells, evaluation, name, settings, called, role)
    ]
    return sorted(found, key=lambda story: (-story.rows, story.block.title))


def _stories(
    cells: pd.DataFrame, evaluation: str, name: str, settings: dict[str, Any], called: str, role: str
) -> Iterator[Story]:
    view = Figure(name="", title="", paper=(), evaluations=(evaluation,), y=name, settings=settings,
                  role=role, joined=(evaluation,), interpolated="with")  # fmt: skip
    for block, group in blocks(cells[(cells.metric == name) & (cells.fault == "")], view, ("line",)):
        points = group[group.label == ""].sort_values("dim").drop_duplicates(["line", "dim"])
        sizes = points.groupby("line").dim.nunique()
        if (sizes > 1).any():
            main = min(sizes[sizes > 1].index, key=lambda key: (order(key), -sizes[key]))
            here = cells[(cells.home == block.dataset) & (cells.model == block.model) & (cells.role == role)]
            yield _story(block, points, main, name, called, here)


def _story(
    block: Block, points: pd.DataFrame, main: str, name: str, called: str, here: pd.DataFrame
) -> Story:
    own = points[points.line == main]
    full = own.iloc[-1]
    few = {share: _fewest(own, "dim", share, name) for share in NEAR}
    points = points.assign(x=points.dim * float(BYTES), mark=[""] * len(points))
    for share, row in few.items():
        at = (points.line == main) & (points.dim == row.dim)
        points.loc[at, "mark"] = [f"{text}{', ' * bool(text)}{share * 100:.0f} %: {row.dim} dims"
                                  for text in points.loc[at, "mark"]]  # fmt: skip
    near, nearer = few[NEAR[1]], few[NEAR[0]]
    best, reached, wide = (written(name, row["mean"]) for row in (full, nearer, near))
    size, width = BYTES * nearer.dim, BYTES * full.dim
    sentences = [
        f"{line(main).label} on {block.dataset} {block.split} ({block.model}): {nearer.dim} of {full.dim}"
        f" dims are within 1 % of full quality ({reached} of {best}, {metric(name).title}), {near.dim}"
        f" within 5 % ({wide}).",
        f"{nearer.dim} dims are {size:,} bytes per vector in float32 in place of {width:,}: a million vectors"
        f" take {size:,} MB in place of {width:,} MB.",
    ]
    times = _times(here)
    sentences.append(_on_time(times) if len(times) else _beside(points, nearer, name))
    charts = [
        vega(_drawn(points, name), metric("bytes"), metric(name), 2, f"How few dims? {called}", block.title)
    ]
    if len(times):
        title = "How little time? Search with few dims"
        charts.append(vega(times, metric("latency_ms"), metric("mAP@10"), 10, title, block.title))
    return Story(block, called, sentences, charts, len(here))


def _fewest(points: pd.DataFrame, cost: str, share: float, name: str) -> Any:
    """Return the cheapest point whose quality is within a share of that of the last."""
    full = points.iloc[-1]["mean"]
    near = points["mean"] <= full * (1 + share) if name in LESS else points["mean"] >= full * (1 - share)
    return points[near].sort_values(cost).iloc[0]


def _drawn(points: pd.DataFrame, name: str) -> pd.DataFrame:
    looks = points.line.map(line)
    size = points.groupby("line").dim.transform("size")
    points = points.assign(look=looks, name=[look.label for look in looks], paper=False, joined=size > 2)
    return described(points.sort_values("line", key=lambda keys: keys.map(order), kind="stable"), name)


def _times(here: pd.DataFrame) -> pd.DataFrame:
    """Return the searches of the best measured line whose time is known, the fastest near the best marked."""
    searches = here[here.evaluation.isin(TIMED) & (here.fault == "")]
    place = ["line", "evaluation", "dataset", "split", "dim", "setting", "copy"]
    cost = searches[searches.metric == "latency_ms"].rename(columns={"mean": "x"})
    found = searches[searches.metric == "mAP@10"].merge(cost[[*place, "x"]], on=place)
    found = found[found.x > 0].sort_values("mean")
    if found.empty:
        return found
    found = found[(found.line == min(found.line, key=order)) & (found.split == found.split.iloc[0])].assign(
        mark=""
    )
    fastest = _fewest(found, "x", NEAR[0], "mAP@10")
    found.loc[fastest.name, "mark"] = f"1 %: {fastest.x:.3g} ms"
    return _drawn(found, "mAP@10").assign(joined=False, told=found.setting)


def _on_time(times: pd.DataFrame) -> str:
    fastest, full = times[times["mark"] != ""].iloc[0], times.loc[times["mean"].idxmax()]
    return (
        f"On the clock, the fastest search within 1 % of the best mAP@10 takes {fastest.x:.3g} ms per query,"
        f" the best one {full.x:.3g} ms ({fastest.text} and {full.text} %)."
    )


def _beside(points: pd.DataFrame, at: Any, name: str) -> str:
    others = points[(points.dim == at.dim) & (points.line != at.line)]
    if others.empty:
        return "No search was timed: evaluation=adaptive_retrieval measures the time per query."
    best = others.loc[others["mean"].idxmin() if name in LESS else others["mean"].idxmax()]
    both = f"{written(name, best['mean'])} beside {written(name, at['mean'])} ({metric(name).title})"
    return f"At {at.dim} dims the best of the other lines is {line(best.line).label} with {both}."
