"""Train or resume the run that a configuration describes."""

from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mrl_experiments.build import build_method, check_owner, checkpoint_owner, construct
from mrl_experiments.checkpoint import read_checkpoint
from mrl_experiments.errors import command_line
from mrl_experiments.files import write_json
from mrl_experiments.losses.method import Inputs
from mrl_experiments.runs import Run, refuse_other_config, run_lock, run_of
from mrl_experiments.training.finetuning import freeze, take_backbone
from mrl_experiments.training.metrics_file import MetricsFile
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.processes import together
from mrl_experiments.training.settled import settle
from mrl_experiments.training.trainer import build_loggers, check_devices
from mrl_experiments.training.watching import print_table


def train(cfg: DictConfig) -> None:
    """Train, or resume, or say that the run is done; what can be wrong is checked before a folder is made."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    first = rank == 0
    settle(cfg)
    run = run_of(cfg)
    if run.config_path.exists():
        refuse_other_config(run, cfg)
    if summary := run.summary():
        if first:
            print(f"{run.name} is finished already")
            _report(run, summary["validation"])
        return
    check_devices(cfg.trainer.get("accelerator"), cfg.trainer.get("devices"))
    pl.seed_everything(cfg.seed + rank, verbose=False)
    data = construct(cfg.data)
    inputs = {**data.inputs, "num_classes": data.num_classes}
    method = build_method(cfg, **inputs)
    if cfg.init_from and not run.checkpoint.exists():
        take_backbone(method, cfg.init_from, Path(cfg.root), cfg.trust)
    if cfg.train_only is not None:
        freeze(method, cfg.train_only)
    module = NestedModule(method, construct(cfg.optim), inputs, data)
    module.owner = checkpoint_owner(cfg)
    module = module.to(memory_format=torch.channels_last)
    # Tuning costs a second a shape, which a network of random widths would pay at every step.
    options = {"max_epochs": cfg.epochs, "benchmark": method.static_shapes}
    trainer = construct(cfg.trainer, **options)(run=run, loggers=[])
    lock = run_lock(cfg) if first else nullcontext()
    with lock, together(trainer.strategy, trainer.world_size):
        trainer.loggers = build_loggers(cfg, run)  # they write into the run's folder
        _fit(trainer, module, data, run, cfg)
        _finish(trainer, module, data, run)
        if module.validated_step != trainer.global_step:  # the last validation was of other weights
            module.validation = {}
            if trainer.limit_val_batches:
                trainer.validate(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            write_json(run.finished, {"epochs": cfg.epochs, "validation": module.validation})
            _report(run, module.validation)


def _fit(trainer: pl.Trainer, module: NestedModule, data: Any, run: Run, cfg: DictConfig) -> None:
    resume = str(run.checkpoint) if run.checkpoint.exists() else None
    kept = read_checkpoint(run.checkpoint) if resume else {"global_step": -1}
    check_owner(run, kept, cfg)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.rewind(kept["global_step"], kept.get("metrics_bytes"))
    if trainer.strategy.launcher is not None:  # before it starts the others, which would wait without limit
        with redirect_stdout(None) if rank_zero_only.rank else nullcontext():  # type: ignore[attr-defined]
            data.prepare_data()
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)


def _finish(trainer: pl.Trainer, module: NestedModule, data: Any, run: Run) -> None:
    """Let the method do what it does after training, and save what came of it; it is validated anew then."""
    module.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        if module.method.finish(_training_inputs(data, module.device)):
            module.validated_step = -1
            trainer.save_checkpoint(run.checkpoint)


def _training_inputs(data: Any, device: torch.device) -> Iterator[Inputs]:
    for x, _, _ in data.train_dataloader():
        yield x.to(device) if isinstance(x, torch.Tensor) else tuple(part.to(device) for part in x)


def _report(run: Run, validation: dict[Any, dict[str, float]]) -> None:
    if validation:
        print_table(run.name, validation)
    else:
        print(f"\n{run.name}: trained without validation (trainer.limit_val_batches=0)")
    print(f"run:  {run.folder}\nnext: {command_line('embed.py', {'run': run.name})}")
