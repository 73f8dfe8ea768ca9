"""Small image sets that torchvision knows: Fashion-MNIST (MIT licence) and CIFAR (no stated licence)."""

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from mrl_experiments.data.artifact_cache import cache_folder, read_only_caches
from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    atomic_path,
    fingerprint,
    is_unchanged,
    read_object,
    remove_quietly,
    write_json,
)
from mrl_experiments.locks import acquire

SETS = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
# Debian's package dataset-fashion-mnist puts the files here, packed otherwise than torchvision's download.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class TorchvisionSet:
    """The set `name`, with its test images as `val`; downloaded to `root` unless it lies there.

    Raises:
        UserError: If it is neither there nor to be had.
    """

    splits: tuple[str, ...] = ("train", "val")

    def __init__(self, name: str, root: str) -> None:
        self.name, self.root = name, cache_folder(root) / "downloads"
        self.channels, size = (1, 28) if name == "fashion_mnist" else (3, 32)
        self.size: int | None = size
        self.num_classes = 100 if name == "cifar100" else 10

    def _take_from_debian(self) -> None:
        for packed in DEBIAN_FASHION.glob("*-ubyte.gz"):
            if not (target := self._folder / packed.stem).exists():
                with gzip.open(packed) as source, atomic_path(target) as path, path.open("wb") as file:
                    shutil.copyfileobj(source, file)

    @property
    def _folder(self) -> Path:
        kind = SETS[self.name]
        return self.root / (f"{kind.__name__}/raw" if self.name == "fashion_mnist" else kind.base_folder)

    @property
    def _note(self) -> Path:
        return self.root / f".{self.name}.json"  # what each file was when it was unpacked

    def _changed(self) -> list[Path]:
        """Return the unpacked files that have changed since; none where nothing was noted."""
        noted = read_object(self._note) if self._note.exists() else {}
        return [path for name, was in noted.items() if not is_unchanged(path := self._folder / name, was)]

    def _load(self, split: str) -> Any:
        """Return torchvision's data set; what is whole is read without a lock."""
        problem: Exception | None = None
        if not self._changed():
            for place in (self.root, *(cache / "downloads" for cache in read_only_caches())):
                try:
                    return SETS[self.name](str(place), train=split == "train", download=False)
                except Exception as error:  # what is not whole makes the readers raise nearly anything
                    problem = problem or error
        with acquire(self.root / f".{self.name}.lock", f"unpacks {self.name}"):
            for path in self._changed():
                print(f"{path} has changed since it was unpacked: it is fetched again", flush=True)
                remove_quietly(path)
            try:
                if self.name == "fashion_mnist":
                    self._take_from_debian()
                loaded = SETS[self.name](str(self.root), train=split == "train", download=True)
            except UserError:
                raise
            except Exception as error:
                package = ", or apt-get install dataset-fashion-mnist" if self.name == "fashion_mnist" else ""
                raise UserError(
                    f"data={self.name} is not whole under {self.root} and cannot be downloaded: {error}",
                    remedy=f"delete what is there and connect to the network once{package}",
                ) from problem or error
            write_json(self._note, {path.name: fingerprint(path) for path in sorted(self._folder.iterdir())})
        return loaded

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
