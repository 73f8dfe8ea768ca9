"""Which samples make which batch, on any number of processes, with any loader."""

from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from mrl_experiments.data.advice import smaller_batch
from mrl_experiments.errors import UserError

Batches = list[NDArray[np.int64]]


def world() -> tuple[int, int]:
    """Return (rank, number of processes) of this training."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@dataclass
class TrainingOrder:
    """A new permutation every epoch, cut into whole batches.

    The b-th batches of all ranks together are the b-th batch that one process would see at the full batch
    size; what does not fill a batch is left out for this epoch. Resumable in the middle of an epoch.
    Lightning calls `set_epoch`; checkpoints carry `state_dict`.
    """

    count: int
    batch_size: int
    seed: int
    epoch: int = 0
    done: int = 0  # batches of this epoch that were handed out
    repeated: bool = False  # every epoch is the first again, to overfit some batches
    shares: NDArray[np.float64] | None = None  # (count,) how often each sample is drawn; None: once an epoch

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise UserError(
                f"data.batch_size={self.batch_size} on {world()[1]} processes exceeds the training set",
                expected=f"at most {self.count} samples in all processes' batches together",
                remedy=f"for example data.batch_size={smaller_batch(self.count, world()[1])}",
            )

    def __len__(self) -> int:
        return self.count // (self.batch_size * world()[1])

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; going to another one starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    @property
    def drawn(self) -> int:
        """The epoch by which order and augmentations are drawn."""
        return 0 if self.repeated else self.epoch

    def remaining(self) -> Batches:
        """Return this rank's batches of sample indices that are still to come in this epoch."""
        rank, processes = world()
        random = np.random.default_rng((self.seed, self.drawn))
        if self.shares is None:
            order = random.permutation(self.count)
        else:
            order = random.choice(self.count, self.count, p=self.shares)
        whole = order[: len(self) * self.batch_size * processes].reshape(
            len(self), self.batch_size, processes
        )
        return list(np.ascontiguousarray(whole[self.done :, :, rank]))

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the position; a finished epoch is left to `set_epoch`."""
        self.epoch, self.done = state["epoch"], state["done"]


def balanced(labels: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Return the share (N,) of each sample's draws.

    Args:
        labels: (N,), whole numbers from 0.
        balance: 0 draws all samples alike; 1 all classes; between them, classes by their size to the power of
            1 - balance.
    """
    counts = np.bincount(labels)
    shares = counts[labels].astype(np.float64) ** -balance
    return shares / shares.sum()


def evaluation_batches(count: int, batch_size: int) -> Batches:
    """Return this rank's share of all samples in order: rank r has those with index % processes == r.

    All ranks get equally many batches, since a model that synchronises may not wait for one that has ended:
    where a rank lacks a last sample, one that belongs to another rank is put in its place, to be dropped by
    whoever counts.
    """
    rank, processes = world()
    longest = -(-count // processes)
    own = np.arange(rank, count, processes)
    padded = np.concatenate([own, np.zeros(longest - len(own), dtype=own.dtype)])
    return [padded[start : start + batch_size] for start in range(0, longest, batch_size)]
