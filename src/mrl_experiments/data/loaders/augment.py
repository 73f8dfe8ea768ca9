"""Augmentations as plain numbers: which window of an image is read, and whether it is mirrored.

Both loaders compute a window with the functions here, so they show a model the same images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CROP_TRIES = 10


@dataclass(frozen=True)
class Resolution:
    """The training resolution in pixels by epoch: constant, then a linear ramp, then constant.

    Rounded to multiples of `step`. The paper goes from 160 at epoch 29 to 192 at epoch 34 in steps of 32.
    """

    start: int
    end: int
    start_epoch: int = 0
    end_epoch: int = 0
    step: int = 32

    def at(self, epoch: int) -> int:
        """Return the side length at an epoch."""
        if epoch <= self.start_epoch or self.start == self.end:
            return self.start
        share = min(1.0, (epoch - self.start_epoch) / max(1, self.end_epoch - self.start_epoch))
        return round((self.start + share * (self.end - self.start)) / self.step) * self.step


@dataclass(frozen=True)
class Augment:
    """How a training image is varied, and how any image is normalised.

    shift: translate by up to this many pixels (images of one size). crop: the range of the area share of a
    random resized crop, or None. flip: mirror half of the images.
    centre: the share of the shorter side that validation reads. mean, std: of each channel, in [0, 1].
    """

    shift: int = 0
    crop: tuple[float, float] | None = None
    flip: bool = False
    centre: float = 1.0
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)

    def lookup(self, channels: int) -> NDArray[np.float32]:
        """Return the normalised value of every grey level, (256, channels)."""
        mean, std = (
            np.broadcast_to(np.asarray(v, dtype=np.float64), channels) for v in (self.mean, self.std)
        )
        return ((np.arange(256)[:, None] / 255 - mean) / std).astype(np.float32)


def random_window(height, width, low, high, draws):  # type: ignore[no-untyped-def]  # numba compiles it too
    """Return top, left, height, width of a random resized crop (Szegedy et al., 2015).

    `low`, `high`: the share of the area; the aspect ratio lies between 3/4 and 4/3. `draws`: 2 a try, then 2.
    """
    for attempt in range(CROP_TRIES):
        area = height * width * (low + (high - low) * draws[2 * attempt])
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draws[2 * attempt + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(draws[2 * CROP_TRIES] * (height - h + 1))
            left = int(draws[2 * CROP_TRIES + 1] * (width - w + 1))
            return top, left, h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def centre_window(height, width, share):  # type: ignore[no-untyped-def]  # numba compiles it too
    """Return top, left, height, width of the central square that covers `share` of the shorter side."""
    side = max(1, int(share * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


WINDOW_DRAWS = 2 * CROP_TRIES + 2
FLIP_DRAW, ROW_DRAW, COLUMN_DRAW = WINDOW_DRAWS, WINDOW_DRAWS + 1, WINDOW_DRAWS + 2
DRAWS = WINDOW_DRAWS + 3
