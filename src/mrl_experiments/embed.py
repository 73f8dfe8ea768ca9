"""From a run's checkpoint to embeddings on disk."""

import itertools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mrl_experiments.build import check_data, construct, load_method
from mrl_experiments.cost import network_macs
from mrl_experiments.data.cache import progress
from mrl_experiments.embeddings import create, is_complete, keep_classes, open_arrays, seal
from mrl_experiments.errors import UserError
from mrl_experiments.files import sha256
from mrl_experiments.losses.classifier import counted
from mrl_experiments.losses.method import Method, width_of
from mrl_experiments.results import NATIVE
from mrl_experiments.runs import Run, find_runs, identity, method_name
from mrl_experiments.training.trainer import best_precision

Views = Sequence[bool]  # for each view of an image: is it flipped?
VIEWS: dict[str, Views] = {"none": (False,), "flip": (False, True)}


def embed(cfg: DictConfig) -> None:
    """Embed the wanted splits for each run that matches; what is complete and unchanged is skipped."""
    if cfg.tta not in VIEWS:
        raise UserError(f"tta={cfg.tta}", expected=f"one of {', '.join(VIEWS)}")
    runs = find_runs(Path(cfg.root), cfg.run)
    for run in runs:
        if not run.checkpoint.exists():
            raise UserError(f"run {run.name} has no checkpoint", remedy="train it first")
    fabric = build_fabric(cfg.trainer)
    for run in runs:
        _embed_run(fabric, run, cfg)


def build_fabric(trainer: DictConfig) -> Fabric:
    """Start the processes that a trainer configuration asks for."""
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu, but torch sees no GPU", remedy="use trainer=cpu, or install a driver")
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    accelerator = "cuda" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    precision: Any = best_precision(accelerator) if trainer.precision == "auto" else trainer.precision
    fabric = Fabric(
        accelerator=accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        precision=precision,
    )
    fabric.launch()
    return fabric


def _embed_run(fabric: Fabric, run: Run, cfg: DictConfig) -> None:
    config = run.config
    described = cfg.get("data") or config.data
    data = construct(described)
    splits = list(cfg.splits or data.splits)
    unknown = [split for split in splits if split not in data.splits]
    if unknown:
        raise UserError(
            f"splits={splits}: {data.name} has no {', '.join(unknown)}",
            expected=f"some of {', '.join(data.splits)}",
        )
    if cfg.tta not in data.views:
        raise UserError(f"tta={cfg.tta}: {data.name} has no such views", expected=", ".join(data.views))
    method = load_method(run).to(fabric.device)
    check_data(run, data)
    meta = {
        "run": run.name,
        "method": method_name(config),
        "model": config.model.name,
        "seed": config.seed,
        "dataset": data.name,
        "data": identity({"data": OmegaConf.to_container(described, resolve=True)}),
        "tta": cfg.tta,
        "precision": cfg.trainer.precision,
        "weights": sha256(run.checkpoint),
    }
    parts = [*method.variants().items()][::-1]  # the run itself last: where it is complete, its parts are
    for split, (variant, part) in itertools.product(splits, parts):
        label = " ".join(filter(None, (config.get("label"), variant and NATIVE)))
        own = {"split": split, "variant": variant or None, "label": label or None, "dims": [*part.spec.dims]}
        views = "" if cfg.tta == "none" else cfg.tta
        folder = run.embeddings(data.name, split, "-".join(filter(None, (variant, views))))
        if is_complete(folder, {**meta, **own}) and not cfg.overwrite:
            keep_classes(folder, data.class_facts(split))
            fabric.print(f"{folder}: complete already")
            continue
        if fabric.is_global_zero:
            data.prepare(split)
        fabric.barrier()
        loader = data.dataloader(split)
        macs = _embed_split(fabric, part, loader, folder, VIEWS[cfg.tta])
        if fabric.is_global_zero:
            seal(folder, part.heads(), {**meta, **own, **data.facts(split), "macs": macs})
            keep_classes(folder, data.class_facts(split))
        fabric.barrier()
        fabric.print(f"{folder}: {loader.rows:,} embeddings")


@torch.inference_mode()
def _embed_split(fabric: Fabric, method: Method, loader: Any, folder: Path, views: Views) -> int:
    """Write features and labels by sample index; each process writes those whose index is its own.

    A sequence has one embedding for each token with a label that counts. Returns the multiply-adds of one
    embedding.
    """
    if fabric.is_global_zero:
        create(folder, loader.rows, width_of(method.backbone))
    fabric.barrier()
    features, labels = open_arrays(folder)
    title = f"embedding {folder.parent.name} {folder.name}"
    shown = progress(title, loader.count) if fabric.is_global_zero else nullcontext(lambda count: None)
    macs = 0
    with shown as advance:
        for images, targets, index in loader:
            call = partial(mean_embedding, method, images.to(fabric.device), views)
            with fabric.autocast():
                z = call()
                macs = macs or network_macs(call) // z[..., 0].numel()
            own = index % fabric.world_size == fabric.global_rank
            rows = loader.rows_of(index[own].numpy())
            features[rows], labels[rows] = counted(z.float().cpu()[own], targets[own])
            advance(len(index) * fabric.world_size)
    features.flush()
    labels.flush()
    fabric.barrier()
    return macs


def mean_embedding(method: Method, images: Tensor, views: Views) -> Tensor:
    """Return features (B, D) of images (B, C, H, W), averaged over views."""
    return torch.stack([method.embed(images.flip(-1) if flip else images) for flip in views]).mean(dim=0)
