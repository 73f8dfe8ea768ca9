"""How much each nested dim moves the backbone: python scripts/gradient_shares.py [options of train.py]

Trains as train.py does, without validation, and every so many steps takes the gradient of each dim's loss by
the backbone's parameters, over one batch: as in Eq. 1, and as in the balanced recipe, where the smallest dim
alone teaches its features and others learn in part from what the full width predicts. Prints the length of
each and its cosine with that of the full width's loss in Eq. 1, which a separate model (FF) follows, and the
length of their sums. The last line is a JSON object: medians over the batches after the first epoch.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from speedrun import configured
from torch import Tensor

from mrl_experiments.build import build_method
from mrl_experiments.construct import construct
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.cross_entropy import nested_cross_entropy
from mrl_experiments.models.small_maps import quicken_small_maps
from mrl_experiments.training.optim import TrainingLength
from mrl_experiments.training.precision import best_precision

KINDS = {"eq1": "Eq. 1", "recipe": "the recipe"}
HALF = best_precision("cpu") == "bf16-mixed"


def gradients(method: NestedClassifier, z: Tensor, labels: Tensor, balanced: bool) -> Tensor:
    """Return the gradient of each dim's loss by all parameters of the backbone, (L, P), through z (B, D)."""
    parameters = [one for one in method.backbone.parameters() if one.requires_grad]
    options: dict[str, Any] = {"label_smoothing": method.label_smoothing}
    options |= method.head.teaching if balanced else {}
    dims = method.spec.dims
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
        weights, biases = zip(*map(method.head.parameters_at, dims), strict=True)
        rows = []
        for one in torch.eye(len(dims)):
            total = nested_cross_entropy(z, weights, biases, labels, dims, loss_weights=one, **options).total
            rows.append(torch.autograd.grad(total, parameters, retain_graph=True))
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def measured(method: NestedClassifier, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return lengths over that of the full width, cosines with it, and lengths of sums, of both kinds."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
        z = method.embed(images)
    both = {kind: gradients(method, z, labels, balanced=kind == "recipe") for kind in KINDS}
    full, found = both["eq1"][-1], {}
    for kind, each in both.items():
        lengths = each.norm(dim=1)
        found[f"{kind}_length"] = (lengths / full.norm()).tolist()
        found[f"{kind}_cosine"] = (each @ full / (lengths * full.norm())).tolist()
        found[f"{kind}_sum"] = [float(each.sum(0).norm() / full.norm())]
    return found


def training(cfg: DictConfig, every: int) -> tuple[Sequence[int], list[dict[str, Any]]]:
    """Train by a configuration; return the dims, and what was measured every so many steps."""
    torch.manual_seed(cfg.seed)
    data = construct(cfg.data)
    data.resolution = data.resolution.within(cfg.epochs)
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    method = build_method(cfg, channels=data.channels, size=data.size, num_classes=data.num_classes)
    assert isinstance(method, NestedClassifier)
    method.to(memory_format=torch.channels_last)
    quicken_small_maps(method)
    length = TrainingLength(steps_per_epoch=len(loader), epochs=cfg.epochs, images_per_step=data.batch_size)
    optimizer, schedule = construct(cfg.optim)(method, length)
    found, step = [], 0
    for epoch in range(cfg.epochs):
        loader.sampler.set_epoch(epoch)
        for images, labels, *_ in loader:
            if step % every == 0 and step >= len(loader):
                found.append(measured(method, images, labels))
            with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
                loss = method(images, labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    return method.spec.dims, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=200, help="steps")
    arguments, options = parser.parse_known_args()
    dims, found = training(configured(*options), arguments.every)
    middle = {
        name: [
            round(statistics.median(values), 3) for values in zip(*(one[name] for one in found), strict=True)
        ]
        for name in found[0]
    }
    table = Table("dims")
    table.title = f"gradients by the backbone, medians of {len(found)} batches after the first epoch"
    for features in KINDS.values():
        table.add_column(f"by {features}: length over the full width's")
        table.add_column("cosine with the full width's")
    columns = [middle[f"{kind}_{what}"] for kind in KINDS for what in ("length", "cosine")]
    for dim, *values in zip(dims, *columns, strict=True):
        table.add_row(str(dim), *(f"{value:.2f}" for value in values))
    sums = (f"{middle[f'{kind}_sum'][0]:.2f}" for kind in KINDS)
    table.add_row("sum", next(sums), "", next(sums), "")
    Console().print(table)
    print(json.dumps({"dims": [*dims], **middle}))


if __name__ == "__main__":
    main()
