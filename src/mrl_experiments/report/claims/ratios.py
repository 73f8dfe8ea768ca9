"""Tests of what MRL saves: how many times smaller, cheaper or faster at the same quality."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from mrl_experiments.report.cells import DEVIATION
from mrl_experiments.report.claims.case import Case, Values
from mrl_experiments.report.claims.estimates import Estimate, most, over_seeds, over_splits
from mrl_experiments.report.entries import Entry, Value

SAME = 0.001  # what counts as the same accuracy or mAP: at most 0.1 points less
NONE = Estimate(0.0, None, "never as accurate")


def smaller(case: Case) -> Estimate | None:
    """Test cascades: the size of the largest FF model that is no more accurate, to MRL's expected size."""
    cascades = case.select("mrl", "top1", evaluation="adaptive_classification", policy="paper")
    ff = case.by_dim("ff", "top1", evaluation="linear")
    if not cascades or not ff:
        return None
    views = {str(entry.get("tta")) for entry in cascades}
    tta = "none" if "none" in views else min(views)
    found = [NONE]
    for dim, values in case.by_dim("mrl", "top1", policy="paper", tta=tta).items():
        matched = [size for size, theirs in ff.items() if _mean(values) >= _mean(theirs) - SAME]
        if matched:
            found.append(_size_ratio(case, max(matched), dim, tta))
    return most(found)


def _size_ratio(case: Case, size: int, cap: int, tta: str) -> Estimate:
    wanted: dict[str, Value] = {"policy": "paper", "tta": tta, "dim": cap}
    expected = list(case.values(case.select("mrl", "expected_dim", **wanted)).values())
    spread = list(case.values(case.select("mrl", f"expected_dim{DEVIATION}", **wanted)).values())
    interval = over_seeds([size / dims for dims in expected])
    if interval is None and spread:
        interval = over_splits(size, expected[0], spread[0])
    where = f"{fmean(expected):.0f} expected dims, FF-{size}"
    return Estimate(fmean(size / dims for dims in expected), interval, where)


def cheaper(case: Case) -> Estimate | None:
    """Test adaptive retrieval with exact shortlists: multiply-adds of a search at full width to its own."""
    return _best_saving(case, ["flat"], "MFLOPs")


def faster(case: Case) -> Estimate | None:
    """Test adaptive retrieval: time of a search at full width in the same kind of index to its own."""
    indexes = {str(entry.get("index")) for entry in case.select("mrl", "latency_ms")}
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
        for key, values in quality.items():
            dim, rerank, length = key
            same = _mean(values) >= _mean(quality[plain]) - SAME
            if dim < rerank and key in costs and same:
                how = f"{dim} to {rerank} dims, {length} kept" + f", {index}" * (index != "flat")
                found.append(_ratio(costs[plain], costs[key], how))
    return most(found)


def _searches(case: Case, index: str, metric: str) -> Mapping[tuple[int, int, int], Values]:
    """Return the values of each search by its size, that of its re-rank, and the length of its shortlist."""
    groups: dict[tuple[int, int, int], list[Entry]] = {}
    for entry in case.select("mrl", metric):
        if entry.row.evaluation == "adaptive_retrieval" and entry.get("index") == index:
            rerank, length = (int(entry.settings[name]) for name in ("rerank", "shortlist"))
            groups.setdefault((entry.row.dim, rerank, length), []).append(entry)
        elif entry.row.evaluation == "retrieval" and index == "flat" and not entry.interpolated:
            groups.setdefault((entry.row.dim, entry.row.dim, 0), []).append(entry)
    return {key: case.values(group) for key, group in sorted(groups.items())}


def _ratio(theirs: Values, ours: Values, where: str) -> Estimate:
    ratios = [theirs[place] / value for place, value in ours.items() if place in theirs]
    if not ratios:  # runs of different seeds
        ratios = [_mean(theirs) / _mean(ours)]
    return Estimate(fmean(ratios), over_seeds(ratios), where)


def dearer(case: Case) -> Estimate | None:
    """Test a prediction's multiply-adds: those of MRL to those of FF, at the size where they differ most."""
    mrl, ff = (case.by_dim(line, "network_MFLOPs", evaluation="linear") for line in ("mrl", "ff"))
    found = [_ratio(mrl[dim], ff[dim], f"{dim} dims") for dim in mrl if dim in ff]
    return most(found)


def _mean(values: Values) -> float:
    return fmean(values.values())
