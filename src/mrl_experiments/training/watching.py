"""What a person sees while a run trains: logged metrics, a progress bar, and the table at the end."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mrl_experiments.training.module import NestedModule

Validation = Mapping[int, Mapping[str, float]]


class Metrics(pl.Callback):
    """Send per-size losses and accuracies, the learning rate and samples/s to the loggers."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.speed = 0.0  # samples/s of all ranks, over the last interval
        self._began, self._samples = time.perf_counter(), 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the preparation out of the speed, also after a resume inside an epoch."""
        self._began, self._samples = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave validation out of the speed."""
        self._began, self._samples = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every `every` steps, of one or more batches each, and at the end of the epoch."""
        assert isinstance(pl_module, NestedModule)
        self._samples += len(batch[1]) * trainer.world_size
        batches = self.every * trainer.accumulate_grad_batches
        if (batch_idx + 1) % batches and batch_idx + 1 != trainer.num_training_batches:
            return
        pl_module.check_finite()
        self.speed = self._samples / (time.perf_counter() - self._began)
        self._began, self._samples = time.perf_counter(), 0
        values = _flat("train", pl_module.train_metrics())
        values |= {"lr": trainer.optimizers[0].param_groups[0]["lr"], "samples_per_s": self.speed}
        _log(trainer, values)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation."""
        assert isinstance(pl_module, NestedModule)
        if not trainer.sanity_checking:
            _log(trainer, _flat("val", pl_module.validation))


class ProgressBar(pl.Callback):
    """One bar over the whole training with the time left; one line an epoch where there is no terminal."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._console = Console()
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step training starts from."""
        if not (trainer.is_global_zero and self._console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._task = self._bar.add_task("training", total=total, speed="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        speed = f"{self._metrics.speed:,.0f} samples/s" if self._metrics.speed else ""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.update(self._task, completed=done, description=epoch, speed=speed)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the accuracy at the smallest and the largest size."""
        assert isinstance(pl_module, NestedModule)
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        shown = ", ".join(
            f"{dim} dims {pl_module.validation[dim]['top1']:.1%}" for dim in _ends(list(pl_module.validation))
        )
        print_line = self._bar.console.print if self._bar else print
        print_line(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: val top1 {shown}")
        sys.stdout.flush()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_table(name: str, validation: Validation) -> None:
    """Print every metric at every size; those that begin with `top` are fractions."""
    metrics = sorted(next(iter(validation.values())), key=lambda metric: not metric.startswith("top"))
    table = Table()
    for column in ("dim", *(f"{name} %" if name.startswith("top") else name for name in metrics)):
        table.add_column(column, justify="right")
    for dim, values in validation.items():
        shown = (
            f"{100 * values[name]:.2f}" if name.startswith("top") else f"{values[name]:.4f}"
            for name in metrics
        )
        table.add_row(str(dim), *shown)
    console = Console()
    console.print(f"\n{name}: validation", highlight=False)
    console.print(table)


def _shown(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric.startswith("top") else f"{value:.4f}"


def _ends(dims: list[int]) -> list[int]:
    return dims if len(dims) == 1 else [dims[0], dims[-1]]


def _flat(split: str, nested: Validation) -> dict[str, float]:
    """Name each value; a size that had nothing to measure has NaN and is left out."""
    named = {f"{split}/{name}@{dim}": value for dim, row in nested.items() for name, value in row.items()}
    return {name: value for name, value in named.items() if not math.isnan(value)}


def _log(trainer: pl.Trainer, values: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)
