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
from torch import Tensor

from mrl_experiments.checkpoint import read_checkpoint
from mrl_experiments.files import atomic_path
from mrl_experiments.runs import Run
from mrl_experiments.training.module import NestedModule

TERMINATED = 128 + signal.SIGTERM  # exit status of a run that was asked to stop and saved its work


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

    Nothing is saved once the loss is NaN: the checkpoint on disk stays the last good one.
    """

    def __init__(self, run: Run, minutes: float) -> None:
        self.path, self.seconds = run.checkpoint, 60 * minutes
        self._saved_at = time.monotonic()
        self._terminated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals: Lightning's own handler communicates meanwhile, which can hang DDP."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        self._saved_at = time.monotonic()

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, and leave when asked to; all ranks decide together."""
        due = time.monotonic() - self._saved_at >= self.seconds
        terminated, due = _any_rank(trainer, self._terminated, due)
        if terminated or due:
            self._save(trainer, pl_module)
        if terminated:
            print(f"\nstopped and saved at step {trainer.global_step}; the same command resumes", flush=True)
            raise SystemExit(TERMINATED)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the finished epoch."""
        self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, NestedModule)
        pl_module.check_finite()
        pl_module.check_weights()
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()


def _any_rank(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Tell, on every rank alike, whether any rank raises each flag."""
    if trainer.world_size == 1:
        return list(flags)
    raised = Tensor(flags).to(trainer.strategy.root_device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]
