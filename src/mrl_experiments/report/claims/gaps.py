"""Tests that compare accuracies: the difference of two lines, at the dim where it is least or most."""

from collections.abc import Callable, Sequence
from math import log2
from typing import Any

import pandas as pd

from mrl_experiments.report.claims.case import Case, mean
from mrl_experiments.report.claims.estimates import Estimate, least, most

Test = Callable[[Case], Estimate | None]
Counted = Callable[[int, int], bool]  # whether a dim counts, given the largest


def small(dim: int, largest: int) -> bool:
    """Take the dims up to a sixteenth of the largest: 8 to 128 of 2,048, 8 to 32 of 512."""
    return 16 * dim <= largest


def from_32(dim: int, largest: int) -> bool:
    """Take the dims from 32 on."""
    return dim >= 32


def worst(ours: str, theirs: Sequence[str], metric: str = "top1", dims: Counted | None = None) -> Test:
    """Test a line against the best of others, at the dim where it does worst."""
    return lambda case: least(_gaps(case, ours, theirs, metric, dims))


def best(ours: str, theirs: Sequence[str], metric: str = "top1") -> Test:
    """Test a line against the best of others, at the dim where it does best."""
    return lambda case: most(_gaps(case, ours, theirs, metric, None))


def smooth(case: Case) -> Estimate | None:
    """Test each untrained dim against the line between its trained neighbours over log dim."""
    values = case.by_dim("mrl", "top1")
    found = case.select("mrl", "top1")
    between = {*found.dim[found.interpolated].tolist()}
    trained = [dim for dim in values if dim not in between]
    gaps = []
    for dim in between:
        below, above = [d for d in trained if d < dim], [d for d in trained if d > dim]
        if below and above:
            low, high = below[-1], above[0]
            share = log2(dim / low) / log2(high / low)
            expected = {
                place: (1 - share) * value + share * values[high][place]
                for place, value in values[low].items()
                if place in values[high]
            }
            gaps.append(case.difference(values[dim], expected, f"{dim} dims"))
    return least(gaps)


def funnel(case: Case) -> Estimate | None:
    """Test funnels against one re-rank at full width from the same dim, where they cost less."""
    staged: dict[str, Any] = {"index": "flat", "shortlist": 200, "evaluation": "funnel"}
    single: dict[str, Any] = {**staged, "evaluation": "adaptive_retrieval"}
    single["rerank"] = case.select("mrl", "mAP@10", **single).get("@rerank", pd.Series(dtype=int)).max()
    ours, theirs = (case.by_dim("mrl", "mAP@10", **of) for of in (staged, single))
    our_cost, their_cost = (case.by_dim("mrl", "MFLOPs", **of) for of in (staged, single))
    cheaper = [
        dim
        for dim in ours
        if dim in theirs and mean(our_cost.get(dim)) <= mean(their_cost.get(dim)) < float("inf")
    ]
    return least(case.difference(ours[dim], theirs[dim], f"from {dim} dims") for dim in cheaper)


def _gaps(
    case: Case, ours: str, theirs: Sequence[str], metric: str, dims: Counted | None
) -> list[Estimate | None]:
    mine = case.by_dim(ours, metric)
    others = [case.by_dim(line, metric) for line in theirs]
    largest = max(mine, default=0)
    gaps = []
    for dim in (dim for dim in mine if dims is None or dims(dim, largest)):
        there = [values[dim] for values in others if dim in values]
        if there:
            gaps.append(case.difference(mine[dim], max(there, key=mean), f"{dim} dims"))
    return gaps
