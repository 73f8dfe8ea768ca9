"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, ten classes, no download (CC BY 4.0)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError

SIDE = 8  # pixels of a digit


class Digits:
    """A stratified, seeded split; every pixel is repeated `scale` times in both directions.

    With `size`, images have as many pixels a side, each that of the digit at its place.
    """

    name, num_classes, channels = "digits", 10, 1
    splits: tuple[str, ...] = ("train", "val")

    def __init__(
        self, scale: int = 4, val_share: float = 0.2, seed: int = 0, size: int | None = None
    ) -> None:
        self.scale, self.val_share, self.seed = scale, val_share, seed
        self.size: int | None = size or SIDE * scale
        self._resized = {} if size is None else {"size": size}

    def identity(self) -> dict[str, Any]:
        """Return what determines the images."""
        return {
            "scale": self.scale,
            "val_share": self.val_share,
            "seed": self.seed,
            "scikit-learn": sklearn.__version__,
            **self._resized,
        }

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        digits = load_digits()
        try:
            parts = train_test_split(
                np.arange(len(digits.target)),
                test_size=self.val_share,
                random_state=self.seed,
                stratify=digits.target,
            )
        except ValueError as error:  # of too few samples for a side
            raise UserError(
                f"data.source.val_share={self.val_share} of {len(digits.target)} digits: {error}",
                expected=f"a share that leaves each split samples of all {self.num_classes} classes",
                remedy="data.source.val_share=0.2",
            ) from error
        indices = parts[self.splits.index(split)]
        images = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)
        assert self.size is not None
        pixels = np.arange(self.size) * SIDE // self.size
        large = images[:, pixels][:, :, pixels][..., None]
        return [(image, int(label)) for image, label in zip(large, digits.target[indices], strict=True)]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names and the licence."""
        return {"classes": [str(digit) for digit in range(10)], "licence": "CC BY 4.0"}
