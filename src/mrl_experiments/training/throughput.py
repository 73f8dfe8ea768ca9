"""How fast a training is: samples and tokens a second, model FLOPs utilisation, share of waiting for data."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ThroughputMonitor

from mrl_experiments.training.description import forward_macs

# FLOPs of a training step for each multiply-add of a forward pass: twice 1, and twice 2 backward.
TRAINING = 6


class Throughput(ThroughputMonitor):
    """Lightning's monitor for this project's batches, which also logs `train/data_wait`.

    That is the share of the time between two rows of metrics in which the next batch was waited for.
    On a device that Lightning knows, `train/device/mfu` is the share of its peak that the backbone reaches.

    Args:
        window_size: Logged values are means over so many batches.
    """

    def __init__(self, window_size: int = 20) -> None:
        super().__init__(batch_size_fn=lambda batch: len(batch[1]), length_fn=_items, window_size=window_size)
        self._waited, self._since, self._ended = 0.0, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Begin to measure."""
        super().on_train_start(trainer, *args)
        self._begin()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count what has passed since the step before as waiting."""
        self._waited += time.perf_counter() - self._ended
        if getattr(pl_module, "flops_per_batch", None) is None:
            x, y = batch[:2]
            pl_module.flops_per_batch = TRAINING * forward_macs(pl_module.method, x) * len(y)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log where metrics are due."""
        super().on_train_batch_end(trainer, pl_module, *args)
        self._ended = time.perf_counter()
        if not trainer.fit_loop._should_accumulate() and trainer._logger_connector.should_update_logs:
            pl_module.publish({"train/data_wait": self._waited / (self._ended - self._since)})
            self._begin()

    def on_validation_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Leave validation out."""
        super().on_validation_end(trainer, *args)
        self._begin()

    def _begin(self) -> None:
        self._waited, self._since, self._ended = 0.0, time.perf_counter(), time.perf_counter()


def _items(batch: Any) -> int:
    """Return the labels of a batch: its tokens, of text, and else its samples."""
    return int(batch[1].numel())
