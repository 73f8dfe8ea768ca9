"""What a training sees of the data: batches of a split, whoever reads them."""

from collections.abc import Callable, Iterator

from mrl_experiments.data.augment import Resolution
from mrl_experiments.data.order import Batches, TrainingOrder, evaluation_batches
from mrl_experiments.data.torch_loader import Batch

Run = Callable[[Batches, int, int], Iterator[Batch]]


class TrainLoader:
    """Training batches, a new order each epoch; Lightning moves the epoch and stores the position."""

    def __init__(self, order: TrainingOrder, run: Run, resolution: Resolution) -> None:
        self.sampler, self._run, self._resolution = order, run, resolution

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        order = self.sampler
        batches = order.remaining()
        if not batches:
            return
        for batch in self._run(batches, self._resolution.at(order.epoch), order.epoch):
            order.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position inside the epoch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self.sampler.load_state_dict(state)


class EvalLoader:
    """All samples of a split in order, this process's share of them; see `evaluation_batches`."""

    def __init__(self, count: int, batch_size: int, run: Run, size: int) -> None:
        self.count, self._batch_size, self._run, self._size = count, batch_size, run, size

    def __len__(self) -> int:
        return len(evaluation_batches(self.count, self._batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return self._run(evaluation_batches(self.count, self._batch_size), self._size, 0)
