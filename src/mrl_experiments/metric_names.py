"""How metrics are called and written: shares in percent, others that are not named here as they are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite

DEVIATION = "_std"  # ends the name of a metric's deviation
MISSING = "–"
NOT_FINITE, OUT_OF_RANGE = "not finite", "out of range"  # what stands in place of such a number
SHARES = re.compile(
    r"(top\d+|(mAP|P|R|recall|overlap|nDCG|MRR)@\d+|mean_per_class|(novel|pretrain)_(head|tail)|always_wrong|first_correct|same_ids)"
)
LARGEST = 1e100  # sums and percentages of larger values may overflow
LESS = ("bits_per_byte", "perplexity", "nll")  # of which less is better
SIGNED = {
    "class_gap",
    "cosine",
    "rank_correlation",
}  # within [-1, 1]; other metrics named here are not negative


@dataclass(frozen=True)
class Metric:
    """label: its name in tables. unit: behind the name. scale: what its values are multiplied by.

    digits: behind the point; None for four significant ones.
    """

    label: str
    unit: str = ""
    scale: float = 1
    digits: int | None = 2

    @property
    def title(self) -> str:
        """The name with its unit, for axes and columns."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


NAMED = {
    "top1": Metric("top-1", "%", 100),
    "top5": Metric("top-5", "%", 100),
    "top10": Metric("top-10", "%", 100),
    "cosine": Metric("mean cosine", digits=3),
    "rank_correlation": Metric("rank correlation", digits=3),
    "perplexity": Metric("perplexity"),
    "bits_per_byte": Metric("bits per byte", "bits/byte", digits=3),
    "nll": Metric("NLL", "nats", digits=3),
    "MFLOPs": Metric("cost per query", "MFLOPs", digits=None),
    "network_MFLOPs": Metric("cost per prediction, whole network", "MFLOPs", digits=None),
    "head_MFLOPs": Metric("cost per prediction, head", "MFLOPs", digits=None),
    "tokens_per_s": Metric("speed", "tokens/s", digits=0),
    "expected_dim": Metric("expected dim", "dims", digits=1),
    "expected_dim_cumulative": Metric("expected dim, cumulative", "dims", digits=1),
    "latency_ms": Metric("time per query", "ms", digits=3),
    "single_latency_ms": Metric("time of one query alone", "ms", digits=3),
    "latency_ms_all_threads": Metric("time per query, all threads", "ms", digits=3),
    "latency_ratio": Metric("times faster than exact search", "x"),
    "seconds": Metric("time", "s"),
    "build_seconds": Metric("build time", "s"),
    "index_bytes": Metric("index", "MB", 1e-6, 1),
    "classes": Metric("classes", digits=0),
    "samples": Metric("samples", digits=0),
    "queries": Metric("queries", digits=0),
    "class_gap": Metric("accuracy of a class, less that at full width", "points", 100),
    "dim": Metric("dims"),
    "bytes": Metric("bytes per vector, float32", "B"),
}


def metric(name: str) -> Metric:
    """Return how a metric is written."""
    label = name.replace("_", " ")
    return NAMED.get(name) or (Metric(label, "%", 100) if SHARES.match(name) else Metric(label, digits=None))


def fault(name: str, value: float) -> str:
    """Say why a value cannot be one of this metric, or nothing."""
    if not isfinite(value):
        return NOT_FINITE
    if abs(value) > LARGEST:
        return OUT_OF_RANGE
    share = SHARES.fullmatch(name) is not None
    low = -1 if name in SIGNED else 0 if share or name in NAMED or name.endswith(DEVIATION) else -inf
    high = 1 if share or name in SIGNED else inf
    rounding = 1e-6  # rows hold eight digits
    return "" if low - rounding <= value <= high + rounding else OUT_OF_RANGE


def in_percent(name: str, values: Iterable[float]) -> str:
    """Return what to say of values that are shares in another unit than rows have, or nothing."""
    percent = SHARES.fullmatch(name) and all(1 < value <= 100 for value in values)
    return ", in percent, it seems: rows hold shares from 0 to 1" if percent else ""


def written(name: str, mean: float, deviation: float | None = None) -> str:
    """Write a value of a metric with its deviation, without the unit."""
    if not isfinite(mean):
        return NOT_FINITE
    how = metric(name)
    form = ".4g" if how.digits is None else f".{how.digits}f"
    text = f"{mean * how.scale:{form}}"
    return f"{text} ± {deviation * how.scale:{form}}" if deviation else text
