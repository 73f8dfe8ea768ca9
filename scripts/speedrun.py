"""The default job to a fixed result: python scripts/speedrun.py [--seeds 0 1 2] [options of train.py]

The result: top-1 of at least 75.0 at 512 dims and 38.0 at 8 on kanji1k val, mean of three seeds, from random
weights. Prints seconds, images and accuracy of each seed and, as its last line, a JSON object; records are in
docs/speedrun.md. Each seed is one train.py command, from prepared data, on as many threads as torch is told.
`cpu_over_baseline` compares the CPU seconds of training steps with those of 500,000 images by the recipe
of before (optim=sgd_cyclic at 32 px, plain convolutions, no fused optimizer): steps of both in turns,
medians over rounds, since machines drift.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mrl_experiments.build import build_method
from mrl_experiments.construct import construct
from mrl_experiments.models.small_maps import quicken_small_maps
from mrl_experiments.places import CONF
from mrl_experiments.runs import run_of
from mrl_experiments.training.optim import TrainingLength
from mrl_experiments.training.precision import best_precision

TRAIN = Path(__file__).parents[1] / "train.py"
BASELINE_IMAGES = 500_000  # five epochs, as it was
STEPS = 3  # of each contender in a round


class Trainee:
    """A method with its optimizer and batches of one size, ready to take steps.

    Args:
        cfg: Of train.py.
        images: (B, C, H, W).
        labels: (B,).
        before: With plain convolutions, and the optimizer's parameters one after the other.
    """

    def __init__(self, cfg: DictConfig, images: Tensor, labels: Tensor, *, before: bool) -> None:
        self.images, self.labels = images, labels
        channels, size = images.shape[1:3]
        self.method = build_method(cfg, channels=channels, size=size, num_classes=int(labels.max()) + 1)
        self.method.to(memory_format=torch.channels_last)
        if not before:
            quicken_small_maps(self.method)
        length = TrainingLength(steps_per_epoch=100, epochs=10, images_per_step=len(images))
        self.optimizer, _ = construct(cfg.optim)(self.method, length)
        for group in self.optimizer.param_groups if before else []:
            group["fused"] = False
        precision = cfg.trainer.precision
        precision = best_precision("cpu") if precision == "auto" else precision
        self.autocast = precision == "bf16-mixed"

    def cost(self) -> float:
        """Take some steps; return CPU seconds per image."""
        began = time.process_time()
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = self.method(self.images, self.labels).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return (time.process_time() - began) / STEPS / len(self.images)


def configured(*options: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(options))


def cpu_over_baseline(cfg: DictConfig, data: Any, baseline: DictConfig, rounds: int) -> float:
    """Return the CPU seconds of a training's steps as a share of those of the recipe of before."""
    loader = data.train_dataloader()
    batches: dict[int, Any] = {}
    for epoch in range(cfg.epochs):
        loader.sampler.set_epoch(epoch)
        images, labels, _ = next(iter(loader))
        batches.setdefault(images.shape[-1], (images, labels))
    sides = [data.resolution.at(epoch) for epoch in range(cfg.epochs)]
    ours = {side: Trainee(cfg, *batches[side], before=False) for side in batches}
    theirs = Trainee(baseline, *batches[data.size], before=True)
    ratios, rows = [], []
    for turn in range(rounds + 1):
        costs, cost = {side: trainee.cost() for side, trainee in ours.items()}, theirs.cost()
        if turn:  # the first round warms up
            seen = len(loader) * data.batch_size
            ratios.append(sum(seen * costs[side] for side in sides) / (BASELINE_IMAGES * cost))
            rows.append([*costs.values(), cost])
    names = [*(f"{side} px" for side in ours), f"before, {data.size} px"]
    medians = [1000 * statistics.median(column) for column in zip(*rows, strict=True)]
    shown = ", ".join(f"{name} {cost:.2f}" for name, cost in zip(names, medians, strict=True))
    print(f"CPU milliseconds of an image: {shown}", flush=True)
    return statistics.median(ratios)


def train(options: list[str]) -> tuple[float, float, dict[int, float]]:
    """Run train.py in a new folder; return seconds, CPU seconds and {dim: top-1 in percent} on val."""
    with tempfile.TemporaryDirectory() as root:
        options = ["logger=csv", *options, f"root={root}"]
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.executable, str(TRAIN), *options], check=True)
        seconds, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        summary = run_of(configured(*options)).summary()
    assert summary is not None
    top1 = {int(dim): 100 * values["top1"] for dim, values in summary["validation"].items()}
    return seconds, cpu, top1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments, options = parser.parse_known_args()
    cfg = configured(*options)
    data = construct(cfg.data)
    data.resolution = data.resolution.within(cfg.epochs)
    data.prepare_data()
    images = len(data.train_dataloader()) * data.batch_size * cfg.epochs
    before = configured(*options, "optim=sgd_cyclic", "loss.recipe=paper")
    ratio = cpu_over_baseline(cfg, data, before, arguments.rounds)
    table = Table("seed", "seconds", "CPU seconds", "images", "top-1 at 8", "top-1 at 512")
    table.title = (
        f"{os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())} threads, {best_precision('cpu')}"
    )
    rows = []
    for seed in arguments.seeds:
        seconds, cpu, top1 = train([*options, f"seed={seed}"])
        rows.append((seconds, cpu, top1[min(top1)], top1[max(top1)]))
        table.add_row(
            str(seed), f"{seconds:.0f}", f"{cpu:.0f}", f"{images:,}", *(f"{v:.2f}" for v in rows[-1][2:])
        )
    Console().print(table)
    names = ("seconds", "cpu_seconds", "top1_8", "top1_512")
    means = [round(statistics.mean(column), 2) for column in zip(*rows, strict=True)] or [None] * len(names)
    print(
        json.dumps(
            dict(zip(names, means, strict=True)) | {"images": images, "cpu_over_baseline": round(ratio, 3)}
        )
    )


if __name__ == "__main__":
    main()
