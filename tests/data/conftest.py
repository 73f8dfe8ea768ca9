"""Sources small enough for a test."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrl_experiments.data.images.image_data import ImageData


class Pictures:
    """Random images of one size; `opened` is a file that gets a line whenever a split is opened."""

    name, num_classes, splits = "pictures", 5, ("train", "val")

    def __init__(self, channels: int = 3, size: int = 16, count: int = 150, opened: Path | None = None):
        self.channels, self.size, self.count, self.opened = channels, size, count, opened

    def identity(self):
        return {"channels": self.channels, "size": self.size, "count": self.count}

    def open(self, split):
        if self.opened is not None:
            with self.opened.open("a") as file:
                file.write(f"{split}\n")
        rng = np.random.default_rng(len(split))
        pixels = rng.integers(0, 256, (self.count, self.size, self.size, self.channels), dtype=np.uint8)
        return [(image, index % self.num_classes) for index, image in enumerate(pixels)]

    def manifest(self, split):
        return {"classes": list("abcde")}


@pytest.fixture
def pictures():
    return Pictures


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder with train/ and val/, 3 classes of 8 smooth JPEG images each, of different sizes."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in "abc":
            (root / split / label).mkdir(parents=True)
            for number in range(8):
                coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
                size = (int(rng.integers(60, 120)), int(rng.integers(60, 120)))
                picture = coarse.resize(size, Image.Resampling.BICUBIC)
                picture.save(root / split / label / f"{number}.jpg", quality=95)
    return root


@pytest.fixture
def image_data(tmp_path):
    """Build an ImageData of a source, with a cache of its own."""

    def build(source, loader, **options):
        defaults = {
            "root": None,
            "batch_size": 16,
            "workers": 2,
            "cache": str(tmp_path / "cache"),
            "size": None,
            "resolution": None,
            "augment": {},
            "storage": {"default": {"mode": "raw", "max_size": 128}},  # else pages of 256 MB are written
            "betons": {},
            "seed": 0,
        }
        return ImageData(name=source.name, source=source, loader=loader, **{**defaults, **options})

    return build
