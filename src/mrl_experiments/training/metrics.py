"""What is measured while training: losses and hits per dim, the learning rate, the speed."""

import math
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from mrl_experiments.losses.method import Method, StepOutput


class StepSums:
    """Sums of training metrics per dim, kept on the device so that no step waits for the host."""

    def __init__(self, method: Method) -> None:
        self._dims = method.spec.dims
        self._sums: dict[str, Any] = {}

    def add(self, out: StepOutput) -> None:
        """Add one step."""
        step = {"losses": out.losses, "correct": out.correct, "steps": 1, "labels": out.count}
        for name, value in step.items():
            before = self._sums.get(name, 0)
            if isinstance(before, Tensor):
                before = before.to(out.losses.device)  # those of a checkpoint are on the CPU
            self._sums[name] = before + value

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint inside a log interval."""
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with sums of before."""
        self._sums = {name: value for name, value in state.items() if value is not None}

    def drain(self) -> dict[int, dict[str, float]]:
        """Return {dim: {loss, top1}} and start anew; empty when nothing was added."""
        if not self._sums.get("labels"):
            return {}
        sums, self._sums = self._sums, {}
        losses, top1 = sums["losses"] / sums["steps"], sums["correct"] / sums["labels"]
        return {
            dim: {"loss": loss, "top1": share}
            for dim, loss, share in zip(self._dims, losses.tolist(), top1.tolist(), strict=True)
        }


class TrainMetrics(pl.Callback):
    """Log losses and accuracies per dim, the learning rate and samples/s, of every `log_every_n_steps` steps.

    It belongs to a `NestedModule`, which brings it. Values are means over the steps since the last ones.
    """

    def __init__(self) -> None:
        self._began, self._samples = time.perf_counter(), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the preparation out of the speed, also after a resume inside an epoch."""
        self._began, self._samples = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the speed."""
        self._began, self._samples = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every so many steps, of one or more batches each, and at the end of the epoch."""
        self._samples += len(batch[1]) * trainer.world_size
        batches = trainer.log_every_n_steps * trainer.accumulate_grad_batches
        is_last = batch_idx + 1 == trainer.num_training_batches
        if not batches or ((batch_idx + 1) % batches and not is_last):
            return
        pl_module.check_finite()
        speed = self._samples / (time.perf_counter() - self._began)
        self._began, self._samples = time.perf_counter(), 0
        values = named("train", pl_module.train_metrics())
        pl_module.publish(
            values | {"lr": trainer.optimizers[0].param_groups[0]["lr"], "samples_per_s": speed}
        )


def named(split: str, values: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return {split/metric@dim: value}; a dim that had nothing to measure has NaN and is left out."""
    flat = {f"{split}/{name}@{dim}": value for dim, row in values.items() for name, value in row.items()}
    return {name: value for name, value in flat.items() if not math.isnan(value)}
