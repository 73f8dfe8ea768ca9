"""The Lightning trainer as this project sets it up."""

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run
from mrl_experiments.training.checkpoints import AtomicCheckpointIO, Checkpoints
from mrl_experiments.training.metrics_file import MetricsFile
from mrl_experiments.training.processes import set_timeout
from mrl_experiments.training.wandb_logger import wandb_logger
from mrl_experiments.training.watching import Metrics, ProgressBar


def build_trainer(
    run: Run,
    loggers: list[Logger],
    *,
    name: str,
    precision: str,
    checkpoint_minutes: float,
    timeout_minutes: float,
    progress: bool,
    accelerator: str,
    max_epochs: int,
    log_every_n_steps: int,
    **options: Any,
) -> pl.Trainer:
    """Build a trainer that checkpoints atomically and logs per-size metrics.

    `precision=auto` is bf16-mixed where the hardware has it. Several processes wait `timeout_minutes` for one
    that does not answer. `options` go to Lightning as they are.
    Raises UserError where Lightning cannot use the devices asked for.
    """
    _quieten()
    check_devices(accelerator, options.get("devices"))
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    metrics = Metrics(log_every_n_steps)
    callbacks: list[pl.Callback] = [metrics, Checkpoints(run, checkpoint_minutes)]
    if progress:
        callbacks.append(ProgressBar(metrics))
    settings: dict[str, Any] = {
        "precision": best_precision(accelerator) if precision == "auto" else precision,
        "enable_progress_bar": False,  # ours is a callback
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the loaders shard by themselves
        "num_sanity_val_steps": 0,
        **options,
    }
    try:
        trainer = pl.Trainer(
            accelerator=accelerator,
            max_epochs=max_epochs,
            log_every_n_steps=log_every_n_steps,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=run.folder,
            **settings,
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise UserError(
            f"Lightning cannot train with the options of trainer: {str(error).strip().splitlines()[0]}",
            expected="what the Trainer of pytorch-lightning takes",
            remedy="leave out the options of trainer that are not those of conf/trainer",
        ) from error
    set_timeout(trainer.strategy, timeout_minutes)
    # Lightning's part in handling SIGTERM would communicate wherever the signal comes, and can hang.
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    return trainer


def check_devices(accelerator: str | None, devices: Any) -> None:
    """Raise UserError where GPUs are asked for and there are none, or not as many.

    devices: how many, or the numbers of some, as Lightning takes them.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator in ("gpu", "cuda") and not found:
        raise UserError("trainer=gpu, but torch sees no GPU", remedy="use trainer=cpu, or install a driver")
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


def best_precision(accelerator: str) -> str:
    """Return bf16-mixed where the hardware computes in it, else 16-mixed on a GPU and 32-true on a CPU."""
    if accelerator in ("gpu", "cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def build_loggers(cfg: DictConfig, run: Run) -> list[Logger]:
    """Return the metrics file and, with `logger=wandb`, W&B: offline unless a key is configured."""
    loggers: list[Logger] = [MetricsFile(run.metrics)]
    if cfg.logger.name == "wandb" and (wandb := wandb_logger(cfg, run)):
        loggers.append(wandb)
    return loggers


def _quieten() -> None:
    """Silence what Lightning says about choices made here on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view strides.*")
