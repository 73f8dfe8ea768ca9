"""What a step of a slimmable network costs against a plain one: python scripts/bench_slim.py [--rounds 9]

resnet18 on 256 images of 32 px with 1,000 classes, forward, backward and optimizer, in the precision that
training would choose. Contenders take turns within a round; a figure is the median over rounds of the ratio
within a round. Prints a table and, as its last line, a JSON object.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial

import torch
from bench_heads import interleaved, ratio
from bench_train import BATCH, CLASSES, SIZE, Trainee
from rich.console import Console
from rich.table import Table

from mrl_experiments.cost import network_macs
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.method import Method
from mrl_experiments.losses.slimmable.slim import Slim
from mrl_experiments.training.trainer import best_precision

WIDTHS = (0.25, 0.5, 0.75, 1.0)
METHODS: dict[str, Callable[..., Method]] = {
    "ff": partial(NestedClassifier, nested=False),
    "slim, widths 0.25 and 1": partial(Slim, mode="switchable", widths=(0.25, 1.0)),
    "slim, four widths": partial(Slim, mode="switchable", widths=WIDTHS),
    "slim universal, four widths": partial(Slim, mode="universal", widths=WIDTHS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    images = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,))
    steps: dict[str, Callable[[], object]] = {
        name: partial(Trainee(method).step, images, labels) for name, method in METHODS.items()
    }
    seconds = interleaved(steps, parser.parse_args().rounds)
    macs = {name: network_macs(step) for name, step in steps.items()}
    ratios = {name: ratio(values, seconds["ff"]) for name, values in seconds.items()}
    title = f"training step, resnet18, {SIZE} px; {torch.get_num_threads()} threads, {best_precision('cpu')}"
    table = Table("method", "ms", "times FF", "multiply-adds, times FF", title=title)
    for name, values in seconds.items():
        milliseconds = f"{1e3 * statistics.median(values):.0f}"
        table.add_row(name, milliseconds, f"{ratios[name]:.3f}", f"{macs[name] / macs['ff']:.3f}")
    Console().print(table)
    figures = {
        "four_width_step_ratio": ratios["slim, four widths"],
        "universal_step_ratio": ratios["slim universal, four widths"],
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
