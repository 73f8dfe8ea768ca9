"""The same batches as FFCV's through a torch DataLoader, for machines without FFCV."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrl_experiments.data.images.read_image import read_image
from mrl_experiments.data.loaders import augment
from mrl_experiments.data.loaders.augment import Augment, centre_window, random_window
from mrl_experiments.data.loaders.draws import stream, uniforms
from mrl_experiments.data.loaders.order import Batches
from mrl_experiments.data.source import Image, Sample
from mrl_experiments.errors import UserError

Item = tuple[Tensor, int, int]
Batch = tuple[Tensor, Tensor, Tensor]


class ArraySamples(Sequence[Sample]):
    """Images of one size in a memory-mapped .npy file."""

    def __init__(self, images: Path, labels: Path) -> None:
        self._images = np.load(images, mmap_mode="r")
        self.labels: NDArray[np.int64] = np.load(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._images[index], int(self.labels[index])


class Augmented(Dataset[Item]):
    """Samples as normalised tensors (C, size, size), varied when `key` is a stream's key, else centred."""

    def __init__(
        self, samples: Sequence[Sample], channels: int, how: Augment, size: int, key: np.uint64 | None
    ) -> None:
        self.samples, self.channels, self.how, self.size, self.key = samples, channels, how, size, key
        if {len(how.mean), len(how.std)} - {1, channels}:
            raise UserError(
                f"data.augment has {len(how.mean)} values of mean and {len(how.std)} of std",
                expected=f"one value, or one for each of {channels} channels",
            )
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32) * 255 for v in (how.mean, how.std))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        value, label = self.samples[index]
        pixels = read_image(value, self.channels)
        draws = None if self.key is None else uniforms(self.key, index, augment.DRAWS)
        pixels = self._window(pixels, draws)
        if draws is not None:
            pixels = _shift(pixels, self.how, draws)
        image = torch.from_numpy(pixels.astype(np.float32, order="C"))
        return image.sub_(self.mean).div_(self.std), label, index

    def _window(self, pixels: Image, draws: NDArray[np.float64] | None) -> Image:
        height, width = pixels.shape[:2]
        if draws is not None and self.how.crop is not None:
            top, left, h, w = random_window(height, width, *self.how.crop, draws)
        elif (height, width) == (self.size, self.size) and (draws is not None or self.how.centre == 1):
            return pixels
        else:
            top, left, h, w = centre_window(height, width, self.how.centre if draws is None else 1.0)
        picture = Pillow.fromarray(pixels.squeeze(-1) if self.channels == 1 else pixels)
        box = (left, top, left + w, top + h)
        # Of Pillow's filters this one is nearest to FFCV's, the average over the area of a pixel.
        resized = picture.resize((self.size, self.size), Pillow.Resampling.HAMMING, box=box)
        return np.asarray(resized).reshape(self.size, self.size, self.channels)


def _shift(pixels: Image, how: Augment, draws: NDArray[np.float64]) -> Image:
    if how.flip and draws[augment.FLIP_DRAW] < 0.5:
        pixels = pixels[:, ::-1]
    if not how.shift:
        return pixels
    reach = 2 * how.shift + 1
    top, left = (int(draws[number] * reach) for number in (augment.ROW_DRAW, augment.COLUMN_DRAW))
    padding = ((how.shift, how.shift), (how.shift, how.shift), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    return padded[top : top + pixels.shape[0], left : left + pixels.shape[1]]


def _ignore_signals(worker: int) -> None:
    """Leave it to the main process to save and to end its workers: terminals and schedulers signal all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class TorchLoader:
    """Batches of one split through worker processes."""

    def __init__(
        self, samples: Sequence[Sample], channels: int, how: Augment, workers: int, seed: int | None
    ) -> None:
        self.samples, self.channels, self.how, self.workers, self.seed = samples, channels, how, workers, seed

    def run(self, batches: Batches, size: int, epoch: int) -> Iterator[Batch]:
        """Yield (images, labels, index) for lists of sample indices at a side length."""
        key = None if self.seed is None else stream(self.seed, epoch)
        dataset = Augmented(self.samples, self.channels, self.how, size, key)
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
