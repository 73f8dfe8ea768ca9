"""What nesting and the loaders cost in training: python scripts/bench_train.py [--rounds 7]

Prints a table and, as its last line, a JSON object. Contenders take turns within a round; a figure is the
median over rounds of the ratio within a round, since machines drift.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mrl_experiments.data.images.digits import Digits
from mrl_experiments.data.images.image_data import ImageData
from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.data.loaders.loaders import TrainLoader
from mrl_experiments.data.source import Sample
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.method import Method
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.training.optim import TrainingLength, sgd_cyclic
from mrl_experiments.training.trainer import best_precision

BATCH, SIZE, CLASSES, STEPS = 256, 32, 1000, 4
PHOTOGRAPHS, PHOTOGRAPH = 512, (352, 416)
RAW = {"mode": "raw"}


class Noise(Digits):
    """20,000 colour images of 32 px with 1,000 classes; only their number and size matter here."""

    name, num_classes, channels = "noise", CLASSES, 3
    count = 20_000

    def __init__(self) -> None:
        super().__init__(scale=4)

    def identity(self) -> dict[str, Any]:
        """Return what determines the images."""
        return {"count": self.count}

    def open(self, split: str) -> list[Sample]:
        """Return random images."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (self.count, SIZE, SIZE, 3), dtype=np.uint8)
        return [(image, index % CLASSES) for index, image in enumerate(pixels)]


def image_data(source: Any, loader: Any, cache: str, **options: Any) -> ImageData:
    return ImageData(
        name=source.name,
        source=source,
        root=None,
        loader=loader,
        batch_size=BATCH,
        workers=None,
        cache=cache,
        **{
            "size": None,
            "resolution": None,
            "augment": {"flip": True},
            "storage": {"default": RAW},
            **options,
        },
        betons={},
        seed=0,
    )


def photographs(folder: Path) -> ImageFolder:
    """Write smooth random pictures as JPEG files of a photograph's size and weight."""
    rng = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        coarse = Image.fromarray(rng.integers(0, 256, (44, 52, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.normal(0, 8, smooth.shape).astype(np.int16)
        target = folder / "train" / str(number % 2) / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(target, quality=90)
    (folder / "val").symlink_to(folder / "train")
    return ImageFolder("photographs", str(folder), 0.1, 0)


def loader_speed(data: ImageData) -> Iterator[float]:
    """Yield images/s of one pass after another; the first, which compiles, is left out."""
    loader = data.train_dataloader()
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        began = time.perf_counter()
        images = sum(len(labels) for _, labels, _ in loader)
        if epoch:
            yield images / (time.perf_counter() - began)


def loader_ratio(rounds: int, make: Callable[[str], ImageData]) -> tuple[float, float, float]:
    """Return images/s of FFCV and torch and their ratio, medians over rounds."""
    speeds = [loader_speed(make(loader)) for loader in ("ffcv", "torch")]
    pairs = list(islice(zip(*speeds, strict=False), rounds))
    ffcv, torch_loader = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return ffcv, torch_loader, statistics.median(a / b for a, b in pairs)


class Trainee:
    """A method with its optimizer, ready to take steps."""

    def __init__(self, method: Callable[..., Method]) -> None:
        torch.manual_seed(0)
        backbone = TimmBackbone(arch="resnet18", name="resnet18", channels=3, size=SIZE)
        made = method(backbone, CLASSES, name="bench", label_smoothing=0.1, recipe="balanced")
        self.method = made.to(memory_format=torch.channels_last)
        length = TrainingLength(steps_per_epoch=1000, epochs=1, images_per_step=BATCH)
        self.optimizer, _ = sgd_cyclic(self.method, length, lr=0.1, nesterov=True, weight_decay=5e-4)
        self.autocast = best_precision("cpu") == "bf16-mixed"

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on one batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.method(images, labels).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def step_ratio(rounds: int, images: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Return seconds of an FF and of an MRL step, and their ratio."""
    pairs = []
    trainees = [Trainee(partial(NestedClassifier, nested=nested)) for nested in (False, True)]
    for turn in range(rounds + 1):
        times = []
        for trainee in trainees:
            began = time.perf_counter()
            for _ in range(STEPS):
                trainee.step(images, labels)
            times.append((time.perf_counter() - began) / STEPS)
        if turn:  # the first round warms up
            pairs.append(times)
    ff, mrl = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return ff, mrl, statistics.median(mrl / ff for ff, mrl in pairs)


def endless(loader: TrainLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the batches of one epoch after another."""
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def data_wait(data: ImageData, steps: int) -> float:
    """Return the share of training time spent waiting for the next batch, without the compiling first one."""
    trainee, loader = Trainee(NestedClassifier), data.train_dataloader()
    batches = endless(loader)
    trainee.step(*next(batches)[:2])
    waited, began = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        images, labels, _ = next(batches)
        waited += time.perf_counter() - asked
        trainee.step(images, labels)
    return waited / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        noise = Noise()
        pictures = photographs(Path(folder) / "photographs")
        crops = {
            "size": 224,
            "augment": {"crop": (0.25, 1.0), "flip": True, "mean": (0.485,), "std": (0.229,)},
            "storage": {"default": {"mode": "proportion", "max_size": 500}},
        }
        small = loader_ratio(rounds, lambda loader: image_data(noise, loader, folder))
        large = loader_ratio(rounds, lambda loader: image_data(pictures, loader, folder, **crops))
        data = image_data(noise, "ffcv", folder)
        wait = data_wait(data, steps=8 * rounds)
        images, labels, _ = next(iter(data.dataloader("val")))
        step = step_ratio(rounds, images.clone(), labels.clone())
    table = Table(
        "figure", "contenders", "ratio", title=f"{torch.get_num_threads()} threads, {rounds} rounds"
    )
    table.add_row(
        "MRL step / FF step, resnet18, 32 px", f"{step[1]:.3f} s, {step[0]:.3f} s", f"{step[2]:.3f}"
    )
    table.add_row("waiting for FFCV, share of a step", "", f"{wait:.4f}")
    for name, (ffcv, other, ratio) in (("32 px raw", small), ("224 px crops, half JPEG", large)):
        table.add_row(f"FFCV / torch, {name}", f"{ffcv:,.0f} images/s, {other:,.0f} images/s", f"{ratio:.2f}")
    Console().print(table)
    figures = {
        "mrl_step_ratio": step[2],
        "data_wait_share": wait,
        "ffcv_vs_torch_32px": small[2],
        "ffcv_vs_torch_224px": large[2],
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
