"""The same batches as FFCV's without FFCV: small images a batch at a time, others by a torch DataLoader."""

import os
import resource
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrl_experiments.data.images.read_image import read_image
from mrl_experiments.data.loaders import augment as windows
from mrl_experiments.data.loaders.augment import Augment, center_window, random_window
from mrl_experiments.data.loaders.counter_rng import stream, uniform, uniforms
from mrl_experiments.data.loaders.loaders import Batch
from mrl_experiments.data.loaders.order import Batches
from mrl_experiments.data.source import Image, Sample
from mrl_experiments.errors import UserError

Item = tuple[Tensor, int, int]


class ArraySamples(Sequence[Sample]):
    """Images of one size in a memory-mapped .npy file of records (image, label)."""

    def __init__(self, path: Path) -> None:
        records = np.load(path, mmap_mode="r")
        self.images: NDArray[np.uint8] = records["image"]
        self.labels: NDArray[np.int64] = np.array(records["label"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.images[index], int(self.labels[index])


class Augmented(Dataset[Item]):
    """Samples as normalized tensors (size, size, C), varied when `key` is a stream's key, else centered."""

    def __init__(
        self, samples: Sequence[Sample], channels: int, augment: Augment, size: int, key: np.uint64 | None
    ) -> None:
        self.samples, self.channels, self.augment, self.size, self.key = samples, channels, augment, size, key
        _check_channels(augment, channels)
        self.mean, self.std = (
            torch.tensor(v, dtype=torch.float32) * 255 for v in (augment.mean, augment.std)
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        value, label = self.samples[index]
        pixels = read_image(value, self.channels)
        numbers = None if self.key is None else uniforms(self.key, index, windows.NUMBERS)
        pixels = self._window(pixels, numbers)
        if numbers is not None:
            pixels = _shift(pixels, self.augment, numbers)
        image = torch.from_numpy(pixels.astype(np.float32, order="C"))
        return image.sub_(self.mean).div_(self.std), label, index

    def _window(self, pixels: Image, numbers: NDArray[np.float64] | None) -> Image:
        height, width = pixels.shape[:2]
        if numbers is not None and self.augment.crop is not None:
            top, left, h, w = random_window(height, width, *self.augment.crop, numbers)
        elif (height, width) == (self.size, self.size) and (numbers is not None or self.augment.center == 1):
            return pixels
        else:
            top, left, h, w = center_window(height, width, self.augment.center if numbers is None else 1.0)
        picture = Pillow.fromarray(pixels.squeeze(-1) if self.channels == 1 else pixels)
        box = (left, top, left + w, top + h)
        # Of Pillow's filters this one is nearest to FFCV's, the average over the area of a pixel.
        resized = picture.resize((self.size, self.size), Pillow.Resampling.HAMMING, box=box)
        return np.asarray(resized).reshape(self.size, self.size, self.channels)


def _shift(pixels: Image, augment: Augment, numbers: NDArray[np.float64]) -> Image:
    if augment.flip and numbers[windows.FLIP] < 0.5:
        pixels = pixels[:, ::-1]
    if not augment.shift:
        return pixels
    reach = 2 * augment.shift + 1
    top, left = (int(numbers[number] * reach) for number in (windows.ROW, windows.COLUMN))
    padding = ((augment.shift, augment.shift), (augment.shift, augment.shift), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    return padded[top : top + pixels.shape[0], left : left + pixels.shape[1]]


def _ignore_signals(worker: int) -> None:
    """Ignore signals in a worker; the main process, which gets them too, saves and ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def require_open_files(workers: int) -> None:
    """Raise the soft limit of open files where that many workers need it.

    A worker hands over each tensor as an open file. Where the limit is reached, its thread that sends them
    drops the batch, for which this process would wait without end.

    Raises:
        UserError: If the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each prepares 2 batches of 3 tensors, open twice until they are received, and has pipes.
    needed = len(os.listdir("/dev/fd")) + 12 + 12 * workers
    if not workers or soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"this process may have {hard} files open, data.workers={workers} need {needed}",
            expected="a higher limit (ulimit -n)",
            remedy="raise it, or read in this process: data.workers=0",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class ArrayLoader:
    """Batches of images that all have the size a model sees, cut and normalized a batch at a time.

    One process does so faster than others could send it images, unless a GPU waits for them.

    Args:
        samples: Of one split.
        channels: C.
        augment: Without `crop`.
        seed: Of the variations; None shows images as they are.
    """

    def __init__(self, samples: ArraySamples, channels: int, augment: Augment, seed: int | None) -> None:
        _check_channels(augment, channels)
        self.samples, self.augment, self.seed = samples, augment, seed
        self._normalized, self._channel = augment.lookup(channels), np.arange(channels)

    def run(self, batches: Batches, size: int, epoch: int) -> Iterator[Batch]:
        """Yield images (B, C, size, size), labels (B,) and index (B,) for lists of sample indices."""
        for index in batches:
            images = self.samples.images[index]
            if self.seed is not None:
                images = self._varied(images, index, stream(self.seed, epoch))
            normalized = torch.from_numpy(self._normalized[images, self._channel])
            labels = torch.from_numpy(self.samples.labels[index])
            yield normalized.permute(0, 3, 1, 2), labels, torch.from_numpy(index)

    def _varied(self, images: NDArray[np.uint8], index: NDArray[np.int64], key: np.uint64) -> Any:
        """Return images (B, H, W, C) mirrored and shifted, their outermost pixels repeated."""
        count, height, width = images.shape[:3]
        shift = self.augment.shift
        numbers = (windows.FLIP, windows.ROW, windows.COLUMN)
        with np.errstate(over="ignore"):
            mirror, top, left = (uniform(key, index.astype(np.uint64), number) for number in numbers)
        reach = 2 * shift + 1
        rows = np.arange(height) + (top * reach).astype(np.int64)[:, None] - shift
        columns = np.arange(width) + (left * reach).astype(np.int64)[:, None] - shift
        rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
        if self.augment.flip:
            columns = np.where(mirror[:, None] < 0.5, width - 1 - columns, columns)
        return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _check_channels(augment: Augment, channels: int) -> None:
    """Raise UserError where mean and std are not of these channels."""
    if {len(augment.mean), len(augment.std)} - {1, channels}:
        raise UserError(
            f"data.augment has {len(augment.mean)} values of mean and {len(augment.std)} of std",
            expected=f"one value, or one for each of {channels} channels",
        )


@dataclass(frozen=True)
class TorchLoader:
    """Batches of one split through worker processes."""

    samples: Sequence[Sample]
    channels: int
    augment: Augment
    workers: int
    seed: int | None

    def run(self, batches: Batches, size: int, epoch: int) -> Iterator[Batch]:
        """Yield images (B, C, size, size), labels (B,) and index (B,) for lists of sample indices."""
        require_open_files(self.workers)
        key = None if self.seed is None else stream(self.seed, epoch)
        dataset = Augmented(self.samples, self.channels, self.augment, size, key)
        loader = DataLoader(
            dataset,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # else it draws from the training's, and a resumed run differs
        )
        for images, labels, index in loader:
            yield images.permute(0, 3, 1, 2), labels, index
