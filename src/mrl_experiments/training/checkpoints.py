"""Checkpoints that survive a kill, a full disk and a loss that became NaN."""

import io
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from torch import Tensor

from mrl_experiments.checkpoint import read_checkpoint
from mrl_experiments.command import Stopped
from mrl_experiments.files import atomic_path
from mrl_experiments.runs import Run
from mrl_experiments.training.metrics_file import MetricsFile
from mrl_experiments.training.module import NestedModule

PATIENCE = 2.0  # seconds; torchrun and terminals may send several signals at once


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target and move it there once it is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace `path`. Raises UserError on a full disk; the old file stays then."""
        with atomic_path(Path(path)) as temporary:
            buffer = io.BytesIO()  # torch.save itself hides that a disk is full
            torch.save(checkpoint, buffer)
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint once its checksums have been compared."""
        return read_checkpoint(Path(path), mapped=False)


class Checkpoints(pl.callbacks.Checkpoint):
    """Save `last.ckpt` after each epoch, every `minutes`, and on SIGTERM or Ctrl-C.

    Only after an optimizer step, since gradients that are being accumulated are no part of a checkpoint, and
    after the validation that is due with that step. Nothing is saved once the loss is NaN: the checkpoint on
    disk stays the last good one.
    """

    def __init__(self, run: Run, minutes: float) -> None:
        self.path, self.seconds = run.checkpoint, 60 * minutes
        self._saved_at = time.monotonic()
        self._asked_at: float | None = None  # to stop
        self._signal = int(signal.SIGTERM)  # that asked

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Take over the signals: Lightning's own handler communicates meanwhile, which can hang DDP."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        self._saved_at = time.monotonic()
        stoppers = (callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping))
        if any(stopper.stopping_reason != EarlyStoppingReason.NOT_STOPPED for stopper in stoppers):
            trainer.should_stop = True  # it was stopped early, and killed before it was finished

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._asked_at is None:
            self._asked_at, self._signal = time.monotonic(), signum
        elif signum == signal.SIGINT and time.monotonic() - self._asked_at > PATIENCE:
            raise Stopped(signum)  # Ctrl-C again, from someone who does not want to wait

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, and leave when asked to, unless a validation comes first."""
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        if not _last_batch(trainer) and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._save_where_due(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation inside an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not _last_batch(trainer):
            self._save_where_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the finished epoch."""
        self._save_where_due(trainer, pl_module, due=True)

    def _save_where_due(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, due: bool = False
    ) -> None:
        """Save and leave where it is time; all ranks decide together."""
        if not due and trainer.fit_loop._should_accumulate():
            return
        due = due or time.monotonic() - self._saved_at >= self.seconds
        asked, due = _any_rank(trainer, self._asked_at is not None, due)
        if asked or due:
            self._save(trainer, pl_module)
        if asked:
            _leave(trainer, self._signal)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how far metrics.csv is: lines may follow before the next step."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                checkpoint["metrics"] = logger.written()

    def _save(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, NestedModule)
        pl_module.check_finite()
        pl_module.check_weights()
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()


def _last_batch(trainer: pl.Trainer) -> bool:
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def _leave(trainer: pl.Trainer, signum: int) -> None:
    print(f"\nstopped and saved at step {trainer.global_step}; the same command resumes", flush=True)
    raise SystemExit(128 + signum)


def _any_rank(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Return, on every rank alike, whether any rank raises each flag."""
    if trainer.world_size == 1:
        return list(flags)
    raised = Tensor(flags).to(trainer.strategy.root_device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]
