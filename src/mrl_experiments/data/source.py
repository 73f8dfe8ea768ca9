"""What a data set is to this project: splits of images with labels, computed one sample at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]  # (H, W, C)
Sample: TypeAlias = tuple[Image | Path, int]  # an image or the file that holds it, and its class


class Source(Protocol):
    """A data set. Building one checks that its files exist.

    Attributes:
        name: How tables call it.
        num_classes: C.
        channels: 1 or 3.
        size: The side of all images in pixels, or None where images are files of any size.
        splits: Their names.

    Raises:
        UserError: If files are missing.
    """

    name: str
    num_classes: int
    channels: int
    size: int | None
    splits: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """Return JSON values that determine every pixel and label; they key the cache."""

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split, computed when asked for; sent to worker processes."""

    def manifest(self, split: str) -> dict[str, Any]:
        """Return JSON values worth keeping beside the split: classes, provenance, licence.

        Returns:
            Among them, `classes`: their names, by label; `facts`: columns of what else evaluations may read
            of each class: superclass (a name without spaces), frequency (a rank, 1 is the commonest, None
            is unknown).
        """
