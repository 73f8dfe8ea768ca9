"""What a training sees of the data: batches of a split, whoever reads them."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from mrl_experiments.data.loaders.order import Batches, TrainingOrder, evaluation_batches
from mrl_experiments.errors import UserError

Batch: TypeAlias = tuple[Any, Tensor, Tensor]  # inputs (B, ...), labels (B, ...), index (B,)
BatchReader = Callable[[Batches, int], Iterator[Batch]]  # of lists of sample indices, in an epoch


def at_once(read: Callable[[NDArray[np.int64], int], tuple[Any, NDArray[Any]]]) -> BatchReader:
    """Return the reader of batches whose arrays, inputs and labels, `read(index, epoch)` gives."""

    def run(batches: Batches, epoch: int) -> Iterator[Batch]:
        for index in batches:
            yield tree_map(torch.from_numpy, (*read(index, epoch), index))

    return run


def training_splits(data: Any) -> tuple[str, ...]:
    """Return the splits that a training of `data` reads: without "val" where nothing is validated.

    Raises:
        UserError: If the data have none to validate on.
    """
    validates = data.trainer is None or bool(data.trainer.limit_val_batches)
    if validates and "val" not in data.splits:
        raise UserError(
            f"{data.name} has no split val",
            expected="images or texts to validate on",
            remedy="trainer.limit_val_batches=0 trains without validation",
        )
    return ("train", "val") if validates else ("train",)


class TrainLoader:
    """Training batches, a new order each epoch; Lightning moves the epoch and stores the position."""

    def __init__(self, order: TrainingOrder, run: BatchReader) -> None:
        self.sampler, self._run = order, run

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        order = self.sampler
        batches = order.remaining()
        if not batches:
            return
        for batch in self._run(batches, order.drawn):
            order.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position inside the epoch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self.sampler.load_state_dict(state)


class EvalLoader:
    """All samples of a split in order, this process's share of them; see `evaluation_batches`.

    Args:
        count: The number of samples.
        labels: (count,) how many labels each sample has; None where each has one.

    Attributes:
        rows: The number of labels of all samples.
    """

    def __init__(
        self, count: int, batch_size: int, run: BatchReader, labels: NDArray[np.int64] | None = None
    ) -> None:
        self.count, self._batch_size, self._run = count, batch_size, run
        self._ends = np.arange(1, count + 1) if labels is None else np.cumsum(labels)
        self.rows = int(self._ends[-1])

    def __len__(self) -> int:
        return len(evaluation_batches(self.count, self._batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return self._run(evaluation_batches(self.count, self._batch_size), 0)

    def rows_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the labels of the samples `index` stand among those of all samples in order."""
        ends = self._ends[index]
        counts = ends - np.where(index > 0, self._ends[index - 1], 0)
        ahead = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(ends - counts - ahead, counts)


def train_loader(
    data: Any, count: int, run: BatchReader, shares: NDArray[np.float64] | None = None
) -> TrainLoader:
    """Return the training loader of `data`, a data module, for `count` samples; shares: see TrainingOrder."""
    repeated = data.trainer is not None and bool(data.trainer.overfit_batches)
    order = TrainingOrder(count, data.batch_size, data.seed, repeated=repeated, shares=shares)
    return TrainLoader(order, run)
