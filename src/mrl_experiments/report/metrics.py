"""How metrics are called and written. Whatever is not named here is a fraction, shown in percent."""

from dataclasses import dataclass

DEVIATION = "_std"  # ends the name of a metric's deviation
MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """label: its name in tables. unit: behind the name. scale: what its values are multiplied by.

    digits: behind the point; None for four significant ones.
    """

    label: str
    unit: str = ""
    scale: float = 1
    digits: int | None = 2


NAMED = {
    "top1": Metric("top-1", "%", 100),
    "top5": Metric("top-5", "%", 100),
    "top10": Metric("top-10", "%", 100),
    "cosine": Metric("mean cosine", digits=3),
    "perplexity": Metric("perplexity"),
    "bits_per_byte": Metric("bits per byte", digits=3),
    "nll": Metric("NLL", "nats", digits=3),
    "MFLOPs": Metric("MFLOPs/query", digits=None),
    "network_MFLOPs": Metric("MFLOPs/prediction, whole network", digits=None),
    "head_MFLOPs": Metric("MFLOPs/prediction, head", digits=None),
    "tokens_per_s": Metric("tokens/s", digits=0),
    "expected_dim": Metric("expected size", "dims", digits=1),
    "expected_dim_cumulative": Metric("expected size, cumulative", "dims", digits=1),
    "latency_ms": Metric("time/query", "ms", digits=3),
    "seconds": Metric("time", "s"),
    "build_seconds": Metric("build time", "s"),
    "index_bytes": Metric("index", "MB", 1e-6, 1),
    "classes": Metric("classes", digits=0),
    "samples": Metric("samples", digits=0),
    "queries": Metric("queries", digits=0),
    "class_gap": Metric("accuracy of a class, less that at full width", "points", 100),
    "dim": Metric("Representation size"),
}


def metric(name: str) -> Metric:
    """Return how a metric is written."""
    return NAMED.get(name) or Metric(name.replace("_", " "), "%", 100)


def written(name: str, mean: float, deviation: float | None = None) -> str:
    """Write a value of a metric with its deviation, without the unit."""
    how = metric(name)
    form = ".4g" if how.digits is None else f".{how.digits}f"
    text = f"{mean * how.scale:{form}}"
    return f"{text} ± {deviation * how.scale:{form}}" if deviation else text
