"""What a person sees while a run trains: a progress bar, and the table at the end."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mrl_experiments.progress import Pace
from mrl_experiments.training.module import NestedModule

Validation = Mapping[int, Mapping[str, float]]


class ProgressBar(pl.Callback):
    """One bar over the whole training with the time left; lines where there is no terminal.

    Those come with each validation and every 30 seconds, the first as soon as the speed is known.
    """

    def __init__(self) -> None:
        self._console = Console()
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step training starts from."""
        if not trainer.is_global_zero:
            return
        total = _batches(trainer)
        self._pace, self._samples = Pace(None if total is None else total - _done(trainer)), 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total, speed="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or print a line that is due."""
        if self._bar is None:
            return
        measured = trainer.callback_metrics.get("samples_per_s")
        speed = "" if measured is None else f"{float(measured):,.0f} samples/s"
        epoch, done = f"epoch {_epoch(trainer)}", _done(trainer) + batch_idx + 1
        self._bar.update(self._task, completed=done, description=epoch, speed=speed)
        self._pace.done += 1
        self._samples += len(batch[1]) * trainer.world_size
        if self._line_is_due():
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            shown = f"{epoch}, step {trainer.global_step:,}/{_steps(trainer)}, loss {loss:.4g}"
            speed = f"{self._samples / self._pace.done * self._pace.speed:,.0f} samples/s"
            print(", ".join(filter(None, (shown, speed, self._pace.left))), flush=True)

    def _line_is_due(self) -> bool:
        return self._bar is not None and not self._console.is_terminal and self._pace.due()

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        """Print a line that is due."""
        if self._line_is_due():
            done = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.processed
            print(f"epoch {_epoch(trainer)}: {done:,} batches of val are done", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the accuracy at the smallest and the largest dim."""
        assert isinstance(pl_module, NestedModule)
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        shown = ", ".join(
            f"{dim} dims {pl_module.validation[dim]['top1']:.1%}" for dim in _ends(list(pl_module.validation))
        )
        print_line = self._console.print if self._bar and self._console.is_terminal else print
        print_line(f"epoch {_epoch(trainer)}: val top1 {shown}")
        sys.stdout.flush()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class CompileTime(pl.Callback):
    """Print once how long the first step took, in which torch.compile does its work."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._told = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note when the first step begins."""
        self._began = self._began or time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Print how long it took."""
        if self._began is not None and not self._told and trainer.is_global_zero:
            print(f"compile=true: the first step took {time.perf_counter() - self._began:.1f} s", flush=True)
        self._told = True


def print_table(name: str, validation: Validation) -> None:
    """Print every metric at every dim; those that begin with `top` are fractions."""
    metrics = sorted(next(iter(validation.values())), key=lambda metric: not metric.startswith("top"))
    table = Table()
    for column in ("dim", *(f"{name} %" if name.startswith("top") else name for name in metrics)):
        table.add_column(column, justify="right")
    for dim, values in validation.items():
        table.add_row(str(dim), *(_shown(name, values[name]) for name in metrics))
    console = Console()
    console.print(f"\n{name}: validation", highlight=False)
    console.print(table)


def _shown(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric.startswith("top") else f"{value:.4f}"


def _ends(dims: list[int]) -> list[int]:
    return dims if len(dims) == 1 else [dims[0], dims[-1]]


def _epoch(trainer: pl.Trainer) -> str:
    last = trainer.max_epochs
    return f"{trainer.current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")


def _done(trainer: pl.Trainer) -> int:
    """Return the batches of the epochs before this one."""
    return trainer.current_epoch * int(trainer.num_training_batches)


def _steps(trainer: pl.Trainer) -> str:
    steps = trainer.estimated_stepping_batches
    return f"{steps:,}" if math.isfinite(steps) and steps > 0 else "?"


def _batches(trainer: pl.Trainer) -> int | None:
    """Return how many batches a training has, as far as its epochs and steps say."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    limits = [int(trainer.num_training_batches) * epochs] if epochs is not None and epochs > 0 else []
    limits += [steps * trainer.accumulate_grad_batches] if steps > 0 else []
    return min(limits, default=None)
