"""Augmentations as plain numbers: which window of an image is read, and whether it is mirrored.

Both loaders compute a window with the functions here, so they show a model the same images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

CROP_TRIES = 10


@dataclass(frozen=True)
class Resolution:
    """The training resolution by epoch: constant, then a linear ramp, then constant.

    The paper goes from 160 at epoch 29 to 192 at epoch 34 in steps of 32.

    Attributes:
        start: The side in pixels up to `start_epoch`.
        end: The side in pixels from `end_epoch` on; None is the last epoch, see `within`.
        step: Sides in between are rounded to multiples of it.
    """

    start: int
    end: int
    start_epoch: int = 0
    end_epoch: int | None = 0
    step: int = 32

    @classmethod
    def of(cls, size: int) -> "Resolution":
        """Return the resolution that is `size` pixels in every epoch."""
        return cls(size, size)

    def within(self, epochs: int) -> "Resolution":
        """Return the resolution of a training of that many epochs, where `end_epoch` None is the last one.

        A single epoch from which a ramp begins is at `end`.
        """
        last = epochs - 1
        if self.end_epoch is None:
            return replace(self, end_epoch=last) if last > self.start_epoch else Resolution.of(self.end)
        return Resolution.of(self.end) if last == self.start_epoch == 0 else self

    def at(self, epoch: int) -> int:
        """Return the side in pixels at an epoch."""
        if epoch <= self.start_epoch or self.start == self.end:
            return self.start
        share = min(1.0, (epoch - self.start_epoch) / max(1, (self.end_epoch or 0) - self.start_epoch))
        return round((self.start + share * (self.end - self.start)) / self.step) * self.step


@dataclass(frozen=True)
class Augment:
    """How a training image is varied, and how any image is normalized.

    Attributes:
        shift: The most pixels by which an image is translated (images of one size).
        crop: The range of the area share of a random resized crop, or None.
        flip: Whether half of the images are mirrored.
        center: The share of the shorter side that validation reads.
        mean: Of each channel, or of all, in [0, 1].
        std: Of each channel, or of all, in [0, 1].
    """

    shift: int = 0
    crop: tuple[float, float] | None = None
    flip: bool = False
    center: float = 1.0
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)

    def lookup(self, channels: int) -> NDArray[np.float32]:
        """Return the normalized value of every gray level, (256, channels)."""
        mean, std = (
            np.broadcast_to(np.asarray(v, dtype=np.float64), channels) for v in (self.mean, self.std)
        )
        return ((np.arange(256)[:, None] / 255 - mean) / std).astype(np.float32)


def random_window(height, width, low, high, uniforms):  # type: ignore[no-untyped-def]  # numba compiles it too
    """Return top, left, height, width in pixels of a random resized crop (Szegedy et al., 2015).

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        low: The least share of the area; the aspect ratio lies between 3/4 and 4/3.
        high: The largest share of the area.
        uniforms: (WINDOW_NUMBERS,) random numbers from [0, 1): two per try, then two for the place.
    """
    for attempt in range(CROP_TRIES):
        area = height * width * (low + (high - low) * uniforms[2 * attempt])
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * uniforms[2 * attempt + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniforms[2 * CROP_TRIES] * (height - h + 1))
            left = int(uniforms[2 * CROP_TRIES + 1] * (width - w + 1))
            return top, left, h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def center_window(height, width, share):  # type: ignore[no-untyped-def]  # numba compiles it too
    """Return top, left, height, width of the central square that covers `share` of the shorter side."""
    side = max(1, int(share * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


WINDOW_NUMBERS = 2 * CROP_TRIES + 2
FLIP, ROW, COLUMN = WINDOW_NUMBERS, WINDOW_NUMBERS + 1, WINDOW_NUMBERS + 2
NUMBERS = WINDOW_NUMBERS + 3
