"""The Lightning trainer as this project sets it up."""

import functools
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from lightning_fabric.plugins import CheckpointIO
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError, said
from mrl_experiments.options.check import check_cpus
from mrl_experiments.options.kinds import show
from mrl_experiments.runs import Run
from mrl_experiments.training.checkpoints import AtomicCheckpointIO, Checkpoints
from mrl_experiments.training.metrics_file import MetricsFile
from mrl_experiments.training.precision import best_precision
from mrl_experiments.training.processes import set_timeout
from mrl_experiments.training.watching import ProgressBar

# How the warnings begin that are wrong here, and why they are.
WRONG_HERE = {
    r"The number of training batches \(\d+\) is smaller than the logging": "an epoch's end is logged too",
    r"It is recommended to use `self.log\('val/": "validation has summed over the processes already",
    r"You requested to overfit but enabled train dataloader": "the loaders repeat the batches themselves",
    r"You have overridden `on_after_batch_transfer` in": "our data modules have none",
    r"Checkpoint directory .* exists and is not empty": "a run is resumed",
    r"Found \d+ module\(s\) in eval mode at the start": "layers that train_only= leaves out, on purpose",
    r"Grad strides do not match bucket view strides": "1x1 convolutions in channels_last: both fit",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated": "of Lightning's own use of torch",
}
NONE_MEANS = ("check_val_every_n_epoch",)  # options of which null is no default, but says something


def build_trainer(
    run: Run,
    loggers: list[Logger],
    callbacks: Sequence[pl.Callback] = (),
    *,
    name: str,
    accelerator: str,
    precision: str,
    checkpoint_minutes: float,
    timeout_minutes: float,
    progress: bool,
    **options: Any,
) -> pl.Trainer:
    """Build a trainer that checkpoints atomically and resumes where it was stopped.

    Args:
        run: Where checkpoints go.
        loggers: What metrics go to.
        callbacks: Those of the user.
        name: How the configuration is called.
        accelerator: As Lightning has it, but `auto` is a GPU or the CPU.
        precision: As Lightning has it; `auto` is bf16-mixed where the hardware computes in it.
        checkpoint_minutes: Between two checkpoints inside an epoch.
        timeout_minutes: How long several processes wait for one that does not answer.
        progress: Whether a bar is shown.
        options: Arguments of Lightning's Trainer; None is its default, except where None means something.

    Raises:
        UserError: If Lightning cannot do what is asked for.
    """
    hear_warnings()
    check_devices(accelerator, options.get("devices"))
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    given = {key: value for key, value in options.items() if value is not None or key in NONE_MEANS}
    settings: dict[str, Any] = {key: _plain(value) for key, value in given.items()}
    settings["precision"] = best_precision(accelerator) if precision == "auto" else precision
    plugins = settings.pop("plugins", [])
    plugins = list(plugins) if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    own_bar = any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks)
    settings.setdefault("enable_progress_bar", own_bar)
    added: list[pl.Callback] = [ProgressBar()] if progress and not settings["enable_progress_bar"] else []
    if settings.get("enable_checkpointing", True):
        added.append(Checkpoints(run, checkpoint_minutes))  # after the others, whose state it keeps
    settings.setdefault("default_root_dir", run.folder)
    try:
        trainer = pl.Trainer(
            accelerator=accelerator,
            callbacks=[*callbacks, *added],
            logger=loggers,
            plugins=plugins,
            **settings,
        )
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(
            f"Lightning cannot train with the options of trainer: {said(error)}",
            expected="what the Trainer of pytorch-lightning takes",
            remedy="leave out the options of trainer that are not those of conf/trainer",
        ) from error
    set_timeout(trainer.strategy, timeout_minutes)
    # Lightning's part in handling SIGTERM would communicate wherever the signal comes, and can hang.
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    return trainer


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def check_devices(accelerator: str | None, devices: Any) -> None:
    """Raise UserError where GPUs are asked for and there are none, or not as many; or more than CPUs can do.

    devices: how many, or the numbers of some, as Lightning takes them.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator in ("gpu", "cuda") and not found:
        raise UserError("trainer=gpu, but torch sees no GPU", remedy="use trainer=cpu, or install a driver")
    if accelerator == "auto" and not found:
        check_cpus(devices)
    if accelerator == "cpu" or not found or devices in ("auto", -1, "-1"):
        return
    numbers = devices.strip(",").split(",") if isinstance(devices, str) else devices
    wanted = numbers if isinstance(numbers, int) else 1 + max(map(int, numbers))
    if wanted > found:
        raise UserError(
            f"trainer.devices={devices}, but torch sees {found} GPUs",
            expected=f"at most {found}, or some of the numbers from 0 to {found - 1}",
            remedy="trainer.devices=auto takes all",
        )


def build_callbacks(cfg: DictConfig, run: Run) -> list[pl.Callback]:
    """Return the callbacks that `cfg.callbacks` describes, each by its `_target_`.

    Checkpoints that name no folder go to the run's.
    """
    callbacks = [construct(node) for node in _described(cfg.get("callbacks"), "callbacks")]
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(run.checkpoint.parent.resolve())
    return callbacks


def build_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """Return the file metrics.csv and the loggers that `cfg.logger` describes, each by its `_target_`.

    Those that ask for a `save_dir` and name none write into the run's folder.
    Raises UserError where a logger lacks its package.
    """
    loggers: list[Logger] = [MetricsFile(run.metrics)]
    for node in _described(cfg.get("logger"), "logger"):
        options = {"save_dir": str(run.folder)} if "save_dir" in node and node.save_dir is None else {}
        try:
            made = construct(node, **options)
        except (ImportError, ModuleNotFoundError, InstantiationException) as error:
            raise UserError(
                f"logger: {' '.join(str(error).splitlines()[:2])}",
                remedy="install its package, or leave it out of logger=",
            ) from error
        logger = made(run) if isinstance(made, functools.partial) else made
        if logger is not None:
            loggers.append(logger)
    return loggers


def _described(group: DictConfig | None, name: str) -> list[DictConfig]:
    """Return what a group of configured objects holds; null leaves one out."""
    nodes = {key: node for key, node in (group or {}).items() if node is not None}
    for key, node in nodes.items():
        if not (isinstance(node, DictConfig) and (not node or "_target_" in node)):
            raise UserError(
                f"{name}.{key!s}={show(node)}", expected="options with the _target_ that they are for"
            )
    return [node for node in nodes.values() if node]


def hear_warnings() -> None:
    """Show the warnings of Lightning and torch, except those that are wrong here: see WRONG_HERE."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # without its notes on devices and advertisements
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # a profile is such a note
    for beginning in WRONG_HERE:
        warnings.filterwarnings("ignore", message=beginning)
