"""Tests of what MRL saves: how many times smaller, cheaper or faster at the same quality."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from mrl_experiments.metric_names import DEVIATION
from mrl_experiments.report.claims.case import Case, Values, mean
from mrl_experiments.report.claims.estimates import Estimate, most, over_seeds, over_splits
from mrl_experiments.report.prepare import values

SAME = 0.001  # what counts as the same accuracy or mAP: at most 0.1 points less
NONE = Estimate(0.0, None, "never as accurate")


def smaller(case: Case) -> Estimate | None:
    """Test cascades: the dims of the largest FF model that is no more accurate, to MRL's expected dims."""
    cascades = case.select("mrl", "top1", evaluation="adaptive_classification", policy="paper")
    ff = case.by_dim("ff", "top1", evaluation="linear")
    if cascades.empty or not ff:
        return None
    views = {*values(cascades, "tta").astype(str)}
    tta = "none" if "none" in views else min(views)
    found = [NONE]
    for dim, found_values in case.by_dim("mrl", "top1", policy="paper", tta=tta).items():
        matched = [own for own, theirs in ff.items() if mean(found_values) >= mean(theirs) - SAME]
        if matched:
            found.append(_dims_ratio(case, max(matched), dim, tta))
    return most(found)


def _dims_ratio(case: Case, ff_dim: int, cap: int, tta: str) -> Estimate:
    wanted: dict[str, Any] = {"policy": "paper", "tta": tta, "dim": cap}
    expected = list(case.values(case.select("mrl", "expected_dim", **wanted)).values())
    spread = list(case.values(case.select("mrl", f"expected_dim{DEVIATION}", **wanted)).values())
    interval = over_seeds([ff_dim / dims for dims in expected])
    if interval is None and spread:
        interval = over_splits(ff_dim, expected[0], spread[0])
    where = f"{fmean(expected):.0f} expected dims, FF-{ff_dim}"
    return Estimate(fmean(ff_dim / dims for dims in expected), interval, where)


def cheaper(case: Case) -> Estimate | None:
    """Test adaptive retrieval with exact shortlists: multiply-adds of a search at full width to its own."""
    return _best_saving(case, ["flat"], "MFLOPs")


def faster(case: Case) -> Estimate | None:
    """Test adaptive retrieval: time of a search at full width in the same kind of index to its own."""
    indexes = {*values(case.select("mrl", "latency_ms"), "index").astype(str)}
    return _best_saving(case, sorted(indexes), "latency_ms")


def _best_saving(case: Case, indexes: Sequence[str], cost: str) -> Estimate | None:
    found = []
    for index in indexes:
        quality, costs = (_searches(case, index, metric) for metric in ("mAP@10", cost))
        full = max((dim for dim, rerank, _ in quality if dim == rerank), default=0)
        plain = max((key for key in quality if key[:2] == (full, full)), default=(0, 0, 0))
        if plain not in costs or all(dim == rerank for dim, rerank, _ in quality):
            continue
        found.append(NONE)
        for key, reached in quality.items():
            dim, rerank, length = key
            same = mean(reached) >= mean(quality[plain]) - SAME
            if dim < rerank and key in costs and same:
                how = f"{dim} to {rerank} dims, {length} kept" + f", {index}" * (index != "flat")
                found.append(_ratio(costs[plain], costs[key], how))
    return most(found)


def _searches(case: Case, index: str, metric: str) -> Mapping[tuple[int, int, int], Values]:
    """Return the values of each search by its dim, that of its re-rank, and the length of its shortlist."""
    found = case.select("mrl", metric)
    staged = found[(found.evaluation == "adaptive_retrieval") & (values(found, "index") == index)]
    plain = found[(found.evaluation == "retrieval") & ~found.interpolated & (index == "flat")]
    plain = plain.assign(**{"@rerank": plain.dim, "@shortlist": 0})
    both = pd.concat([staged, plain])
    keys = zip(*(values(both, name) for name in ("dim", "rerank", "shortlist")), strict=True)
    keyed = both.assign(key=[tuple(map(int, key)) for key in keys])
    return {key: case.values(group) for key, group in keyed.groupby("key")}


def _ratio(theirs: Values, ours: Values, where: str) -> Estimate:
    ratios = [theirs[place] / value for place, value in ours.items() if place in theirs]
    if not ratios:  # runs of different seeds
        ratios = [mean(theirs) / mean(ours)]
    return Estimate(fmean(ratios), over_seeds(ratios), where)


def more_expensive(case: Case) -> Estimate | None:
    """Test a prediction's multiply-adds: those of MRL to those of FF, at the dim where they differ most."""
    mrl, ff = (case.by_dim(line, "network_MFLOPs", evaluation="linear") for line in ("mrl", "ff"))
    found = [_ratio(mrl[dim], ff[dim], f"{dim} dims") for dim in mrl if dim in ff]
    return most(found)
