"""Train or resume the run that a configuration describes."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mrl_experiments.build import build_method, check_owner, checkpoint_of, owner
from mrl_experiments.checkpoint import REMEDY
from mrl_experiments.construct import construct
from mrl_experiments.data.loaders.augment import Resolution
from mrl_experiments.errors import UserError
from mrl_experiments.files import write_json
from mrl_experiments.losses.method import Inputs, Method
from mrl_experiments.models.small_maps import quicken_small_maps
from mrl_experiments.next_commands import next_command
from mrl_experiments.runs import Run, is_trial, refuse_other_config, run_lock, run_of
from mrl_experiments.training.adapting import choose_map, print_choice, start_adaptor
from mrl_experiments.training.batch_augment import BatchAugment
from mrl_experiments.training.description import Description
from mrl_experiments.training.finetuning import freeze, take_backbone
from mrl_experiments.training.metrics import named
from mrl_experiments.training.metrics_file import MetricsFile
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.processes import together
from mrl_experiments.training.settled import known_run, settle
from mrl_experiments.training.trainer import build_callbacks, build_loggers, check_devices
from mrl_experiments.training.watching import CompileTime, print_table

RESUMED = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "random_states"}


def train(cfg: DictConfig) -> float | None:
    """Train, or resume, or say that the run is done; what can be wrong is checked before a folder is made.

    Returns:
        The value of `cfg.optimized_metric`, such as val/top1@8, at the end; None where none is named.

    Raises:
        UserError: If the run cannot be trained like this.
    """
    first: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    settle(cfg)
    run, trial = run_of(cfg), is_trial(cfg)
    longer = known_run(cfg) is not None and refuse_other_config(run, cfg)
    if not (trial or longer) and (summary := run.summary()):
        check_owner(run, summary, run.finished)
        if first:
            print(f"{run.name} is finished already")
            _report(run, summary["validation"], cfg.root)
        return _optimized(cfg, {int(dim): row for dim, row in summary["validation"].items()})
    trainer, module, data = _build(cfg, run)
    if trainer.fast_dev_run:
        with together(trainer.strategy, trainer.world_size):
            trainer.fit(module, datamodule=data)
        trainer.print(f"{run.name}: fast_dev_run={trainer.fast_dev_run} has passed; nothing is kept")
        return _optimized(cfg, module.validation)
    lock = run_lock(cfg) if first else nullcontext()
    with lock, together(trainer.strategy, trainer.world_size):
        trainer.loggers = build_loggers(cfg, run)  # they write into the run's folder
        if first:  # the one that writes checkpoints
            module.owner = owner(run.config)
        _fit(trainer, module, data, run)
        _finish(trainer, module, data, run)
        if module.validated_step != trainer.global_step:  # the last validation was of other weights
            module.validation = {}
            if trainer.limit_val_batches:
                trainer.validate(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            weights = "averaged" if _averaging(trainer) else "current"  # which were validated
            summary = {"epochs": cfg.epochs, "weights": weights, "validation": module.validation}
            if not trial:
                write_json(run.finished, {"run": module.owner, **summary})
            _report(run, module.validation, cfg.root)
    return _optimized(cfg, module.validation)


def _build(cfg: DictConfig, run: Run) -> tuple[Any, NestedModule, Any]:
    """Return what trains a run, what is trained and on what."""
    check_devices(cfg.trainer.get("accelerator"), cfg.trainer.get("devices"))
    pl.seed_everything(cfg.seed + rank_zero_only.rank, verbose=False)  # type: ignore[attr-defined]
    data = construct(cfg.data)
    inputs = {**data.inputs, "num_classes": data.num_classes}
    method = build_method(cfg, **inputs)
    _settle_resolution(method, data, cfg.epochs)
    if cfg.init_from and (is_trial(cfg) or not run.has_checkpoint):
        take_backbone(method, cfg.init_from, Path(cfg.root), cfg.trust)
    if is_trial(cfg) or not run.has_checkpoint:
        start_adaptor(method, data)
    if cfg.train_only is not None:
        freeze(method, cfg.train_only)
    quicken_small_maps(method)
    module = NestedModule(method, construct(cfg.optim), inputs, _augment(cfg, data))
    module = module.to(memory_format=torch.channels_last)
    callbacks = [Description(cfg), *build_callbacks(cfg, run)]
    if cfg.get("compile"):
        method.backbone.compile(dynamic=False)  # each shape anew, such as that of the last batch of val
        callbacks.append(CompileTime())
    options: dict[str, Any] = {"max_epochs": cfg.epochs}
    if cfg.trainer.get("benchmark") is None and not cfg.trainer.get("deterministic"):
        # Tuning costs a second per shape, which a network of random widths would pay at every step.
        options["benchmark"] = method.static_shapes
    trainer = construct(cfg.trainer, **options)(run=run, loggers=[], callbacks=callbacks)
    return trainer, module, data


def _settle_resolution(method: Method, data: Any, epochs: int) -> None:
    """Make the resolution of training end with the last epoch, and stay where the backbone takes no other."""
    resolution = getattr(data, "resolution", None)
    if resolution is None:
        return
    data.resolution = resolution.within(epochs)
    if getattr(method.backbone, "fixed_size", False) and resolution != Resolution.of(data.size):
        data.resolution = Resolution.of(data.size)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(f"{method.backbone.name} takes images of {data.size} px alone: no data.resolution")


def _augment(cfg: DictConfig, data: Any) -> BatchAugment | None:
    """Return what varies batches; None where nothing does, or nothing is configured."""
    options = cfg.get("batch_augment")
    if not options or not any(value for key, value in options.items() if key != "_target_"):
        return None
    if "augment" not in cfg.data:
        raise UserError(f"batch_augment= varies images, and data={data.name} has none")
    normalized = {"mean": list(cfg.data.augment.mean), "std": list(cfg.data.augment.std)}
    made = construct(options, **normalized, num_classes=data.num_classes, seed=cfg.data.seed)
    assert isinstance(made, BatchAugment)
    return made


def _optimized(cfg: DictConfig, validation: Mapping[int, Mapping[str, float]]) -> float | None:
    """Return the value of `optimized_metric`; without a dim it is that of the largest one."""
    if not (wanted := cfg.get("optimized_metric")):
        return None
    values = named("val", validation)
    if validation:
        values |= {f"val/{name}": value for name, value in validation[max(validation)].items()}
    if wanted not in values:
        raise UserError(
            f"optimized_metric={wanted} was not measured",
            expected=f"one of {', '.join(values)}" if values else "a training that validates",
        )
    return values[wanted]


def _fit(trainer: pl.Trainer, module: NestedModule, data: Any, run: Run) -> None:
    resume = str(run.checkpoint) if run.has_checkpoint else None
    kept: dict[str, Any] = checkpoint_of(run) if resume else {"global_step": -1}
    if resume and (missing := sorted(RESUMED - kept.keys())):
        raise UserError(
            f"{resume} has no {', '.join(missing)}",
            expected="a whole checkpoint, not weights alone",
            remedy=REMEDY,
        )
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.rewind(kept["global_step"], **kept.get("metrics", {"size": kept.get("metrics_bytes")}))
    if trainer.strategy.launcher is not None:  # before it starts the others, which would wait without limit
        with redirect_stdout(None) if rank_zero_only.rank else nullcontext():  # type: ignore[attr-defined]
            data.prepare_data()
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


def _finish(trainer: pl.Trainer, module: NestedModule, data: Any, run: Run) -> None:
    """Run what the method does after training, and save the result; it is validated again then."""
    module.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        changed = module.method.finish(_training_inputs(data, trainer.current_epoch, module.device))
        if choose_map(module.method, data, run if trainer.is_global_zero else None) or changed:
            module.validated_step = -1
            for callback in _averaging(trainer):
                callback._average_model = None  # the module holds the averaged weights, and what finish made
            trainer.save_checkpoint(run.checkpoint)


def _averaging(trainer: Any) -> list[WeightAveraging]:
    return [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]


def _training_inputs(data: Any, epoch: int, device: torch.device) -> Iterator[Inputs]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # images of the size that training ended with
    for x, _, _ in loader:
        yield move_data_to_device(x, device)


def _report(run: Run, validation: dict[Any, dict[str, float]], root: str) -> None:
    if validation:
        print_table(run.name, validation)
    else:
        print(f"\n{run.name}: trained without validation (trainer.limit_val_batches=0)")
    print_choice(run)
    print(f"run:  {run.folder}\nnext: {next_command('embed.py', root, {'run': run.name})}")
