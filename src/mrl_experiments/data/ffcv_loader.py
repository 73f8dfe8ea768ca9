"""Batches of a .beton file through FFCV."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ffcv import Loader
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.loader import OrderOption
from ffcv.transforms import ToTensor, ToTorchImage
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.data.augment import Augment
from mrl_experiments.data.draws import stream
from mrl_experiments.data.ffcv_kernels import ShiftFlipNormalise, Window
from mrl_experiments.data.order import Batches

Batch = tuple[Tensor, Tensor, Tensor]


class PlannedLoader(Loader):
    """FFCV's loader over an order that is set anew before each epoch."""

    plan: NDArray[np.int64]

    def next_traversal_order(self) -> NDArray[np.int64]:
        """Return the planned samples."""
        return self.plan

    def __len__(self) -> int:
        return math.ceil(len(self.plan) / self.batch_size)


class FFCVLoader:
    """Batches of one split; compiled at the first use of a side length, which costs some seconds."""

    def __init__(
        self, path: Path, channels: int, how: Augment, batch_size: int, workers: int, seed: int | None
    ) -> None:
        self.path, self.channels, self.how = path, channels, how
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self._key = None if seed is None else np.zeros(1, dtype=np.uint64)
        self._loaders: dict[int, PlannedLoader] = {}  # by side length

    def run(self, batches: Batches, size: int, epoch: int) -> Iterator[Batch]:
        """Yield (images, labels, index) for lists of sample indices at a side length.

        A batch's memory is used again a few batches later.
        """
        if self._key is not None and self.seed is not None:
            self._key[0] = stream(self.seed, epoch)
        plan = np.concatenate(batches)
        if size not in self._loaders:
            self._loaders[size] = self._compile(plan, size)
        loader = self._loaders[size]
        loader.plan = plan
        epoch_thread = iter(loader)
        try:
            for index, (images, labels) in zip(batches, epoch_thread, strict=True):
                yield images, labels[:, 0], torch.from_numpy(index)
        finally:
            epoch_thread.close()  # else it waits for ever when an epoch is left early

    def _compile(self, plan: NDArray[np.int64], size: int) -> PlannedLoader:
        decoder = NDArrayDecoder() if self.channels == 1 else Window(size, self.how, self._key)
        normalise = ShiftFlipNormalise(self.channels, self.how, self._key)
        PlannedLoader.plan = plan  # FFCV asks for an order while it is being built
        return PlannedLoader(
            str(self.path),
            batch_size=self.batch_size,
            num_workers=self.workers,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            seed=0,
            pipelines={
                "image": [decoder, normalise, ToTensor(), ToTorchImage()],
                "label": [IntDecoder(), ToTensor()],
            },
        )
