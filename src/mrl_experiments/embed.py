"""Embed data splits with a run's checkpoint."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.adaptor_export import write_sentence_transformers
from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.build import is_averaged, load_method, restore_data, stored_data, trusted_config
from mrl_experiments.cost import network_macs
from mrl_experiments.data.of_run import (
    as_trained,
    described,
    expected_meta,
    refuse_mixed_splits,
    refuse_other_data,
)
from mrl_experiments.embeddings import (
    DATABASES,
    TEXT,
    create,
    finalize,
    is_complete,
    open_arrays,
    weights_name,
    write_classes,
    writing,
)
from mrl_experiments.errors import UserError
from mrl_experiments.external.adapted_file import write_adapted
from mrl_experiments.files import hidden_folder, sha256
from mrl_experiments.locks import acquire
from mrl_experiments.losses.classifier import select_labelled
from mrl_experiments.losses.method import Method, width_of
from mrl_experiments.models.small_maps import quicken_small_maps
from mrl_experiments.next_commands import data_options, next_command
from mrl_experiments.progress import progress
from mrl_experiments.results import NATIVE
from mrl_experiments.runs import Run, check_none_left_out, find_runs, label_of, method_name, readable
from mrl_experiments.training.processes import set_timeout, together
from mrl_experiments.training.trainer import best_precision, check_devices, hear_warnings

Views = Sequence[bool]  # for each view of an image: is it flipped?
VIEWS: dict[str, Views] = {"none": (False,), "flip": (False, True)}


@dataclass(frozen=True)
class _Task:
    """A run to embed.

    Attributes:
        run: The run.
        config: Its configuration, from `trusted_config`.
        data: What is embedded.
        options: The data options that the command names, or None for the run's own data.
    """

    run: Run
    config: DictConfig
    data: Any
    options: DictConfig | None


def embed(cfg: DictConfig) -> None:
    """Embed the wanted splits for each run that matches; what is complete and unchanged is skipped.

    Raises:
        UserError: If a run cannot be embedded; of several, those that cannot be read are named and left out,
            and the error comes at the end.
    """
    if cfg.out:
        return _write_mapped(cfg)
    runs = find_runs(Path(cfg.root), cfg.run)
    fabric = build_fabric(cfg.trainer)
    left_out: list[str] = []
    following: dict[str, str] | None = None

    def read(run: Run) -> tuple[DictConfig, Method]:
        method = load_method(run, cfg.trust, checkpoint=cfg.checkpoint, weights=cfg.weights)
        quicken_small_maps(method)
        return trusted_config(run, cfg.trust), method

    with together(fabric.strategy, fabric.world_size):
        fabric.launch()
        for run, (config, method) in readable(runs, read, left_out):
            options = as_trained(cfg.data, config) if cfg.get("data") else None
            with stored_data(run, config, cfg.cache, options) as data:
                following = _embed_run(
                    fabric, cfg, _Task(run, config, data, options), method.to(fabric.device)
                )
        if following is not None:
            fabric.print(f"next: {next_command('evaluate.py', cfg.root, {'run': cfg.run, **following})}")
    check_none_left_out(left_out)


def build_fabric(trainer: DictConfig) -> Fabric:
    """Return what starts the processes that a trainer configuration asks for."""
    check_devices(trainer.accelerator, trainer.devices)
    hear_warnings()
    fabric = Fabric(
        accelerator=_accelerator(trainer),
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=trainer.strategy,
        precision=_precision(trainer),
    )
    set_timeout(fabric.strategy, trainer.timeout_minutes)
    return fabric


def _accelerator(trainer: DictConfig) -> str:
    return "cuda" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def _precision(trainer: DictConfig) -> Any:
    return best_precision(_accelerator(trainer)) if trainer.precision == "auto" else trainer.precision


def _embed_run(fabric: Fabric, cfg: DictConfig, task: _Task, method: Method) -> dict[str, str] | None:
    """Embed a run, and return the options with which evaluate.py goes on, None if with nothing."""
    splits = _splits(cfg, task.data)
    task.data.accept_changes = cfg.accept_changes
    restore_data(task.run, task.data)
    refuse_other_data(task.run, task.config, task.data, task.options, cfg.accept_changes)
    meta = {**_meta(cfg, task), **_weights(fabric, task.run, cfg)}
    refuse_mixed_splits(task.run, task.data, splits, meta)
    shown = f"{task.data.name} {', '.join(splits)} on {fabric.device} with {_precision(cfg.trainer)}"
    fabric.print(f"{task.run.name}: {shown}", flush=True)
    networks = [*method.subnetworks().items()][::-1]  # the run itself last: if it is complete, all are
    for split, (name, network) in itertools.product(splits, networks):
        experiment_label = " ".join(
            filter(None, (label_of(task.config), name and NATIVE, weights_name(meta)))
        )
        of_network = {
            "variant": name or None,
            "label": experiment_label or None,
            "dims": [*network.spec.dims],
        }
        views = "" if cfg.tta == "none" else cfg.tta
        copies = f"augmented{cfg.augmented}" if cfg.augmented else ""
        suffix = "-".join(filter(None, (name, views, copies, weights_name(meta))))
        folder = task.run.embeddings(task.data.name, split, suffix)
        _embed_folder(fabric, cfg, network, task.data, folder, {**meta, "split": split, **of_network})
    if {*splits} <= {*DATABASES} or cfg.augmented:
        return None
    with_texts = any(split.endswith(TEXT) for split in splits)
    kind = "cross_modal" if with_texts else "knn" if task.data.num_classes else "agreement"
    evaluation = {} if method.heads() else {"evaluation": kind}
    variant = {"variant": suffix} if suffix else {}
    return data_options(task.data.name, task.config.data.name) | evaluation | variant


def _splits(cfg: DictConfig, data: Any) -> list[str]:
    """Return the splits to embed, once the data are known to have them, and the views."""
    if cfg.augmented and not hasattr(data, "augmented"):
        raise UserError(f"augmented={cfg.augmented}: {data.name} has no images", expected="0")
    splits = list(cfg.splits or (["train"] if cfg.augmented else data.splits))
    unknown = [split for split in splits if split not in data.splits]
    if unknown:
        raise UserError(
            f"splits={splits}: {data.name} has no {', '.join(unknown)}",
            expected=f"some of {', '.join(data.splits)}",
        )
    if cfg.tta not in data.views:
        raise UserError(f"tta={cfg.tta}: {data.name} has no such views", expected=", ".join(data.views))
    return splits


def _meta(cfg: DictConfig, task: _Task) -> dict[str, Any]:
    """Return what all embeddings that a command makes of a run keep of how they were made."""
    config, data = task.config, task.data
    return {
        "run": task.run.name,
        "method": method_name(config),
        "model": config.model.name,
        "seed": config.seed,
        "dataset": data.name,
        **described(data, config.data if task.options is None else task.options),
        "tta": cfg.tta,
        **({"augmented": cfg.augmented} if cfg.augmented else {}),
        "precision": _precision(cfg.trainer),
        **({"adaptor": AdaptorFile.load(task.run.adaptor).digest} if task.run.adaptor.is_file() else {}),
        "weights": sha256(task.run.checkpoint_at(cfg.checkpoint)),
    }


def _weights(fabric: Fabric, run: Run, cfg: DictConfig) -> dict[str, Any]:
    """Return what embeddings keep of the choice of weights, and print it; {} if there is no choice."""
    averaged = is_averaged(run, cfg.checkpoint)
    if cfg.checkpoint == "last" and not averaged:
        return {}
    used = averaged and cfg.weights != "current"
    fabric.print(f"{run.name}: checkpoint={cfg.checkpoint}, {'averaged' if used else 'current'} weights")
    return {"checkpoint": Path(cfg.checkpoint).stem, **({"averaged": used} if averaged else {})}


def _embed_folder(
    fabric: Fabric, cfg: DictConfig, method: Method, data: Any, folder: Path, meta: dict[str, Any]
) -> None:
    """Write one folder of embeddings, unless it is complete; one command at a time does so."""
    split, heads = meta["split"], method.heads()

    def is_done() -> bool:
        """Return what the first process finds, in all of them."""
        expected: Mapping[str, Any] = meta
        with suppress(UserError):  # a damaged meta file, which is_complete reports
            expected = expected_meta(folder, meta, data)
            if cfg.trainer.precision == "auto":  # whatever hardware chose it
                expected = {key: value for key, value in expected.items() if key != "precision"}
        complete = (
            fabric.is_global_zero
            and not cfg.overwrite
            and is_complete(folder, expected, with_heads=heads is not None)
        )
        if complete:
            write_classes(folder, data.class_facts(split))
        done: bool = fabric.broadcast(complete)
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
        loader = data.augmented(split, cfg.augmented) if cfg.augmented else data.dataloader(split)
        macs = _embed_split(fabric, method, loader, folder, VIEWS[cfg.tta])
        if fabric.is_global_zero:
            finalize(folder, heads, {**meta, **data.facts(split), "macs": macs})
            write_classes(folder, data.class_facts(split))
        fabric.barrier()
        fabric.print(f"{folder}: {loader.rows:,} embeddings")


@torch.inference_mode()
def _embed_split(fabric: Fabric, method: Method, loader: Any, folder: Path, views: Views) -> int:
    """Write features and labels by sample index; each process writes every `world_size`-th sample.

    A sequence has one embedding for each token with a label that counts.

    Returns:
        The multiply-adds of one embedding.
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
            mine = index % fabric.world_size == fabric.global_rank
            rows = loader.rows_of(index[mine].numpy())
            features[rows], labels[rows] = select_labelled(z.float().cpu()[mine], targets[mine])
            advance(len(index) * fabric.world_size)
    features.flush()
    labels.flush()
    fabric.barrier()
    return macs


def mean_embedding(method: Method, images: Tensor, views: Views) -> Tensor:
    """Return features (B, D) of images (B, C, H, W), averaged over views."""
    return torch.stack([method.embed(images.flip(-1) if flip else images) for flip in views]).mean(dim=0)


def _write_mapped(cfg: DictConfig) -> None:
    """Write the vectors of data.base, else those that a run was trained on, as its adaptor maps them.

    With `encoder`, write no vectors but a copy of this model that ends with the adaptor.
    """
    runs = find_runs(Path(cfg.root), cfg.run)
    if len(runs) > 1 or not runs[0].adaptor.is_file():
        raise UserError(
            f"out={cfg.out} needs one adaptor, and run={cfg.run} means {', '.join(run.name for run in runs)}",
            expected="the name of one run of model=adaptor, finished",
        )
    adaptor, out = AdaptorFile.load(runs[0].adaptor), Path(cfg.out).expanduser()
    if cfg.encoder:
        with acquire(hidden_folder(out, "lock"), f"writes {out}"):
            write_sentence_transformers(
                adaptor, out, Path(cfg.encoder).expanduser(), cfg.dim, queries=cfg.side == "queries"
            )
        print(f"{out}: SentenceTransformer('{out}'), its vectors by adaptor {adaptor.digest}")
        return
    data = cfg.get("data") or runs[0].config.data
    if (base := data.get("base")) is None:
        raise UserError(f"data={data.name} are no vectors", remedy="data=vectors data.base=<file>")
    count = write_adapted(adaptor, Path(base).expanduser(), out, cfg.dim, queries=cfg.side == "queries")
    print(f"{out}: {count:,} vectors of {cfg.dim or adaptor.width} dims, by adaptor {adaptor.digest}")
