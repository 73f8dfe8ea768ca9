"""Small image sets that torchvision knows: Fashion-MNIST (MIT licence) and CIFAR (no stated licence)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError

SETS = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
# Debian's package dataset-fashion-mnist puts the files here: no download needed.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class TorchvisionSet:
    """The set `name`, with its test images as `val`; downloaded to `root` unless it lies there.

    Raises UserError when it is neither there nor to be had.
    """

    splits: tuple[str, ...] = ("train", "val")

    def __init__(self, name: str, root: str) -> None:
        self.name, self.root = name, Path(root).expanduser() / "downloads"
        self.channels, size = (1, 28) if name == "fashion_mnist" else (3, 32)
        self.size: int | None = size
        self.num_classes = 100 if name == "cifar100" else 10
        if name == "fashion_mnist":
            self._take_from_debian()

    def _take_from_debian(self) -> None:
        raw = self.root / "FashionMNIST" / "raw"
        packed = sorted(DEBIAN_FASHION.glob("*-ubyte.gz"))
        if packed and not raw.exists():
            raw.mkdir(parents=True)
            for file in packed:
                (raw / file.name).symlink_to(file)

    def _load(self, split: str) -> Any:
        kind = SETS[self.name]
        train = split == "train"
        try:
            return kind(str(self.root), train=train, download=True)
        except (OSError, RuntimeError) as error:
            debian = ", or apt-get install dataset-fashion-mnist" if self.name == "fashion_mnist" else ""
            raise UserError(
                f"data={self.name} is not under {self.root} and cannot be downloaded: {error}",
                remedy=f"connect to the network once, copy torchvision's files there{debian}",
            ) from error

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: the published files never change."""
        return {"name": self.name}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        loaded = self._load(split)
        images = np.asarray(loaded.data)
        images = images[..., None] if images.ndim == 3 else images
        return [(image, int(label)) for image, label in zip(images, loaded.targets, strict=True)]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names."""
        return {"classes": list(self._load(split).classes)}
