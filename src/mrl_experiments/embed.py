"""From a run's checkpoint to embeddings on disk."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.build import check_data, construct, is_averaged, load_method, stored_data, trusted_config
from mrl_experiments.cost import network_macs
from mrl_experiments.data.of_run import as_trained, check_own, check_siblings, described, expected_meta
from mrl_experiments.embeddings import (
    create,
    is_complete,
    keep_classes,
    open_arrays,
    seal,
    weights_name,
    writing,
)
from mrl_experiments.errors import UserError
from mrl_experiments.files import sha256
from mrl_experiments.losses.classifier import counted
from mrl_experiments.losses.method import Method, width_of
from mrl_experiments.progress import progress
from mrl_experiments.results import NATIVE
from mrl_experiments.runs import Run, check_none_left_out, find_runs, method_name, readable
from mrl_experiments.training.processes import set_timeout, together
from mrl_experiments.training.trainer import best_precision, check_devices, hear_warnings

Views = Sequence[bool]  # for each view of an image: is it flipped?
VIEWS: dict[str, Views] = {"none": (False,), "flip": (False, True)}


def embed(cfg: DictConfig) -> None:
    """Embed the wanted splits for each run that matches; what is complete and unchanged is skipped.

    Of several runs, those that cannot be read are named and left out. Raises UserError at the end then.
    """
    if cfg.tta not in VIEWS:
        raise UserError(f"tta={cfg.tta}", expected=f"one of {', '.join(VIEWS)}")
    runs = find_runs(Path(cfg.root), cfg.run)
    fabric = build_fabric(cfg.trainer)
    left_out: list[str] = []

    def read(run: Run) -> tuple[DictConfig, Method]:
        weights = {None: None, "ema": "averaged"}.get(cfg.weights, cfg.weights)
        method = load_method(run, cfg.trust, checkpoint=cfg.checkpoint, weights=weights)
        return trusted_config(run, cfg.trust), method

    with together(fabric.strategy, fabric.world_size):
        fabric.launch()
        for run, (config, method) in readable(runs, read, left_out):
            given = as_trained(cfg.data, config) if cfg.get("data") else None
            own = nullcontext(_given(given, cfg.cache)) if given else stored_data(run, config, cfg.cache)
            with own as data:
                _embed_run(fabric, run, config, method.to(fabric.device), data, given, cfg)
    check_none_left_out(left_out)


def _given(options: DictConfig, cache: str | None) -> Any:
    """Return the data that the command names."""
    if cache is not None:
        options.cache = cache
    return construct(options)


def build_fabric(trainer: DictConfig) -> Fabric:
    """Return what starts the processes that a trainer configuration asks for."""
    check_devices(trainer.accelerator, trainer.devices)
    hear_warnings()
    accelerator = "cuda" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    precision: Any = best_precision(accelerator) if trainer.precision == "auto" else trainer.precision
    fabric = Fabric(
        accelerator=accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        precision=precision,
    )
    set_timeout(fabric.strategy, trainer.timeout_minutes)
    return fabric


def _embed_run(
    fabric: Fabric,
    run: Run,
    config: DictConfig,
    method: Method,
    data: Any,
    given: DictConfig | None,
    cfg: DictConfig,
) -> None:
    splits = list(cfg.splits or data.splits)
    unknown = [split for split in splits if split not in data.splits]
    if unknown:
        raise UserError(
            f"splits={splits}: {data.name} has no {', '.join(unknown)}",
            expected=f"some of {', '.join(data.splits)}",
        )
    if cfg.tta not in data.views:
        raise UserError(f"tta={cfg.tta}: {data.name} has no such views", expected=", ".join(data.views))
    data.accept_changes = cfg.accept_changes
    check_data(run, data)
    check_own(run, config, data, given, cfg.accept_changes)
    meta = {
        "run": run.name,
        "method": method_name(config),
        "model": config.model.name,
        "seed": config.seed,
        "dataset": data.name,
        **described(data, config.data if given is None else given),
        "tta": cfg.tta,
        "precision": cfg.trainer.precision,
        "weights": sha256(run.checkpoint_at(cfg.checkpoint)),
        **(of := _weights(fabric, run, cfg)),
    }
    check_siblings(run, data, splits, meta)
    parts = [*method.variants().items()][::-1]  # the run itself last: where it is complete, its parts are
    for split, (variant, part) in itertools.product(splits, parts):
        label = " ".join(filter(None, (config.get("label"), variant and NATIVE, weights_name(of))))
        own = {"split": split, "variant": variant or None, "label": label or None, "dims": [*part.spec.dims]}
        views = "" if cfg.tta == "none" else cfg.tta
        names = filter(None, (variant, views, weights_name(of)))
        folder = run.embeddings(data.name, split, "-".join(names))
        _embed_folder(fabric, part, data, folder, {**meta, **own}, cfg)


def _weights(fabric: Fabric, run: Run, cfg: DictConfig) -> dict[str, Any]:
    """Return what embeddings keep of the weights they are made with, and say it; {} if there is no choice."""
    averaged = is_averaged(run, cfg.checkpoint)
    if cfg.checkpoint == "last" and not averaged:
        return {}
    used = averaged and cfg.weights != "current"
    fabric.print(f"{run.name}: checkpoint={cfg.checkpoint}, {'averaged' if used else 'current'} weights")
    return {"checkpoint": Path(cfg.checkpoint).stem, **({"averaged": used} if averaged else {})}


def _embed_folder(
    fabric: Fabric, method: Method, data: Any, folder: Path, meta: dict[str, Any], cfg: DictConfig
) -> None:
    """Write one folder of embeddings, unless it is complete; one command at a time does so."""
    split, heads = meta["split"], method.heads()

    def is_done() -> bool:
        """Let the first process look, for all of them."""
        first = fabric.is_global_zero
        wanted: Mapping[str, Any] = meta
        with suppress(UserError):  # a damaged meta file, of which is_complete tells
            wanted = expected_meta(folder, meta, data)
        found = first and not cfg.overwrite and is_complete(folder, wanted, with_heads=heads is not None)
        if found:
            keep_classes(folder, data.class_facts(split))
        done: bool = fabric.broadcast(found)
        return done

    if is_done():
        fabric.print(f"{folder}: complete already")
        return
    with writing(folder) if fabric.is_global_zero else nullcontext():
        if is_done():
            fabric.print(f"{folder}: complete now")
            return
        with fabric.rank_zero_first():  # the others wait as long as it takes
            data.prepare(split)
        loader = data.dataloader(split)
        macs = _embed_split(fabric, method, loader, folder, VIEWS[cfg.tta])
        if fabric.is_global_zero:
            seal(folder, heads, {**meta, **data.facts(split), "macs": macs})
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
            inputs = images.to(fabric.device)
            with fabric.autocast():
                z = mean_embedding(method, inputs, views)
                one = partial(mean_embedding, method, inputs[:1], views)
                macs = macs or network_macs(one) // z[:1, ..., 0].numel()
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
