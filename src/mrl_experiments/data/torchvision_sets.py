"""Small image sets that torchvision knows: Fashion-MNIST (MIT licence) and CIFAR (no stated licence)."""

import gzip
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from mrl_experiments.data.prepared import read_only_caches
from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path
from mrl_experiments.locks import exclusive

SETS = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
# Debian's package dataset-fashion-mnist puts the files here, packed otherwise than torchvision's download.
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

    def _take_from_debian(self) -> None:
        raw = self.root / "FashionMNIST" / "raw"
        for packed in DEBIAN_FASHION.glob("*-ubyte.gz"):
            if not (target := raw / packed.stem).exists():
                with gzip.open(packed) as source, atomic_path(target) as path, path.open("wb") as file:
                    shutil.copyfileobj(source, file)

    def _load(self, split: str) -> Any:
        """Read a split, without a lock where it is there, so that a folder which may only be read serves."""
        kind = SETS[self.name]
        for place in (self.root, *(cache / "downloads" for cache in read_only_caches())):
            with suppress(Exception):  # what is not whole makes the readers raise nearly anything
                return kind(str(place), train=split == "train", download=False)
        debian = self.name == "fashion_mnist"
        with exclusive(self.root / f".{self.name}.lock", f"unpacks {self.name}"):
            try:
                if debian:
                    self._take_from_debian()
                return kind(str(self.root), train=split == "train", download=True)
            except UserError:
                raise
            except Exception as error:
                package = ", or apt-get install dataset-fashion-mnist" if debian else ""
                raise UserError(
                    f"data={self.name} is not whole under {self.root} and cannot be downloaded: {error}",
                    remedy=f"delete what is there and connect to the network once{package}",
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
