"""Batches of a .beton file through FFCV."""

import math
import queue
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from ffcv import Loader
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.loader import OrderOption
from ffcv.memory_managers.os_cache import OSCacheManager
from ffcv.pipeline.compiler import Compiler
from ffcv.transforms import ToTensor, ToTorchImage
from numpy.typing import NDArray

from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.data.loaders.counter_rng import stream
from mrl_experiments.data.loaders.ffcv_kernels import ShiftFlipNormalize, Window
from mrl_experiments.data.loaders.loaders import Batch
from mrl_experiments.data.loaders.order import Batches
from mrl_experiments.errors import UserError


def compile_reader(self: OSCacheManager) -> Callable[..., Any]:
    """Compile the function that finds an image's bytes in the mapped file.

    Unlike FFCV's own it names no types. FFCV's changes one of numba's after it was hashed, which ends every
    process with a KeyError from numba.
    """

    def read(address, state):  # type: ignore[no-untyped-def]
        content, starts, sizes = state
        return content[address : address + sizes[np.searchsorted(starts, address)]]

    return Compiler.compile(read)


OSCacheManager.compile_reader = compile_reader


class PlannedLoader(Loader):
    """FFCV's loader over an order that is set anew before each epoch."""

    plan: NDArray[np.int64]

    def next_traversal_order(self) -> NDArray[np.int64]:
        """Return the planned samples."""
        return self.plan

    def __len__(self) -> int:
        return math.ceil(len(self.plan) / self.batch_size)


class FFCVLoader:
    """Batches of one split; compiled at the first use of a side length, which takes some seconds."""

    def __init__(
        self, path: Path, channels: int, augment: Augment, batch_size: int, workers: int, seed: int | None
    ) -> None:
        self.path, self.channels, self.augment = path, channels, augment
        self.batch_size, self.seed = batch_size, seed
        most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        self.workers = max(1, min(workers, most))  # threads; FFCV takes 0 for all there are
        self._key = None if seed is None else np.zeros(1, dtype=np.uint64)
        self._damaged = np.zeros(1, dtype=np.uint64)
        self._loaders: dict[int, PlannedLoader] = {}  # by side length

    def run(self, batches: Batches, size: int, epoch: int) -> Iterator[Batch]:
        """Yield images (B, C, size, size), labels (B,) and index (B,) for lists of sample indices.

        A batch's memory is used again a few batches later. Raises UserError that names a sample whose JPEG
        is damaged: FFCV would show what its memory held before.
        """
        if self._key is not None and self.seed is not None:
            self._key[0] = stream(self.seed, epoch)
        plan, threads = np.concatenate(batches), torch.get_num_threads()
        if size not in self._loaders:
            self._loaders[size] = self._compile(plan, size)
        loader = self._loaders[size]
        loader.plan = plan
        ahead = iter(loader)
        stop = weakref.finalize(self, _stop, ahead)  # also when the process ends inside an epoch
        try:
            for index, (images, labels) in zip(batches, ahead, strict=True):
                torch.set_num_threads(threads)  # FFCV gave torch as many threads as it has workers
                if number := int(self._damaged[0]):
                    raise UserError(
                        f"{self.path} is damaged: the JPEG of sample {number - 1} cannot be decoded",
                        expected="a complete FFCV file",
                        remedy="restore it from a copy, or write it again with scripts/write_imagenet.py",
                    )
                yield images, labels[:, 0], torch.from_numpy(index)
        finally:
            stop()

    def _compile(self, plan: NDArray[np.int64], size: int) -> PlannedLoader:
        decoder = (
            NDArrayDecoder() if self.channels == 1 else Window(size, self.augment, self._key, self._damaged)
        )
        normalize = ShiftFlipNormalize(self.channels, self.augment, self._key)
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
                "image": [decoder, normalize, ToTensor(), ToTorchImage()],
                "label": [IntDecoder(), ToTensor()],
            },
        )


def _stop(ahead: Any) -> None:
    """End the thread that reads ahead; one that still runs when Python ends would abort the process."""
    ahead.close()
    ahead.iter_ixes = iter(())
    while ahead.is_alive():
        with suppress(queue.Empty):  # it may wait for room
            ahead.output_queue.get_nowait()
        ahead.join(timeout=0.05)
