"""What choosing the thresholds of a cascade costs: 50,000 samples, 9 sizes, 1,000 classes, 30 splits.

Every policy of conf/evaluation/adaptive_classification.yaml is fitted to 20 % of each split and measured on
the other 80 %. Drawing the logits is not counted. Prints a table and, as its last line, a JSON object.
"""

import json
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import BLOCK, Exits, read_exits
from mrl_experiments.adaptive.classification.policies import joint, paper, risk_control
from mrl_experiments.results import Setting

SAMPLES, CLASSES, SPLITS, FIT_SHARE = 50_000, 1_000, 30, 0.2
DIMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SWEEPS: dict[str, Callable[[Exits, NDArray[np.int64]], dict[Setting, Cascade]]] = {
    "paper": paper.sweep,
    "joint": partial(joint.sweep, drops=[0.0, 0.005, 0.01, 0.02]),
    "risk_control": partial(risk_control.sweep, drops=[0.005, 0.01, 0.02], delta=0.1),
}


def draw_logits() -> tuple[dict[int, NDArray[np.float32]], NDArray[np.int64]]:
    """Return logits {dim: (N, C)} that sharpen with the size, and labels (N,)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(CLASSES, size=SAMPLES)
    ease = generator.normal(4.3, 2.3, size=SAMPLES)
    logits = {dim: np.empty((SAMPLES, CLASSES), np.float32) for dim in DIMS}
    for start in range(0, SAMPLES, BLOCK):
        rows = np.arange(start, min(start + BLOCK, SAMPLES))
        shared = generator.standard_normal((len(rows), CLASSES), np.float32)
        for level, dim in enumerate(DIMS):
            noise = generator.standard_normal((len(rows), CLASSES), np.float32)
            block = shared + 0.5 * 2 ** (-level / 2) * noise
            block[np.arange(len(rows)), labels[rows]] += (1.3 - 0.3 * 2.0**-level) * ease[rows]
            logits[dim][rows] = 2 * block
    return logits, labels


def measure(cascade: Cascade, exits: Exits, correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Return top-1 and expected size."""
    stop = cascade.stop(exits)
    return float(correct[stop, np.arange(len(stop))].mean()), float(np.asarray(exits.dims)[stop].mean())


def run(logits: dict[int, NDArray[np.float32]], labels: NDArray[np.int64]) -> tuple[dict, dict, dict]:
    """Return seconds by step, and each setting's (top-1, expected size) by split, and top-1 by size."""
    seconds = dict.fromkeys(("logits to confidences", *SWEEPS, "measuring"), 0.0)
    began = time.perf_counter()
    exits = read_exits(logits)
    correct = exits.correct(labels)
    seconds["logits to confidences"] = time.perf_counter() - began
    found: dict[Setting, list[tuple[float, float]]] = {}
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(SAMPLES)
        fitted, measured = np.split(order, [round(FIT_SHARE * SAMPLES)])
        for name, sweep in SWEEPS.items():
            began = time.perf_counter()
            cascades = sweep(exits.take(fitted), labels[fitted])
            seconds[name] += time.perf_counter() - began
            began = time.perf_counter()
            held_out, right = exits.take(measured), correct[:, measured]
            for setting, cascade in cascades.items():
                found.setdefault(setting, []).append(measure(cascade, held_out, right))
            seconds["measuring"] += time.perf_counter() - began
    return seconds, found, dict(zip(exits.dims, correct.mean(axis=1).tolist(), strict=True))


def main() -> None:
    seconds, found, single = run(*draw_logits())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    quality = Table("setting", "top-1 %", "expected size", title="Synthetic logits: what the time buys")
    for dim, accuracy in single.items():
        quality.add_row(f"size {dim} alone", f"{100 * accuracy:.2f}", str(dim))
    for setting, values in found.items():
        accuracy, size = np.mean(values, axis=0)
        quality.add_row(str(setting), f"{100 * accuracy:.2f}", f"{size:.1f}")
    cost = Table("step", "seconds", title=f"{SAMPLES:,} samples, {len(DIMS)} sizes, {SPLITS} splits")
    for step, value in seconds.items():
        cost.add_row(step, f"{value:.2f}")
    cost.add_row("total", f"{sum(seconds.values()):.2f}")
    cost.add_row("peak memory, GiB, with the logits", f"{peak:.2f}")
    console = Console()
    console.print(quality, cost)
    figures = {"policy_search_s": sum(seconds.values()), "peak_gib": peak}
    figures |= {f"{name}_s": seconds[name] for name in SWEEPS}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
