"""Images in one folder per class, as torchvision's ImageFolder has them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from torchvision.datasets.folder import IMG_EXTENSIONS

from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError


class ImageFolder:
    """Either <root>/train/<class>/* and <root>/val/<class>/*, or <root>/<class>/* with a seeded split.

    Raises UserError for a missing root, a class without images, or classes that differ between folders.
    """

    channels = 3
    size: int | None = None
    splits: tuple[str, ...] = ("train", "val")

    def __init__(self, name: str, root: str | None, val_share: float, seed: int) -> None:
        self.name, self.val_share, self.seed = name, val_share, seed
        if root is None or not Path(root).expanduser().is_dir():
            raise UserError(
                f"data.root={root} is not a folder",
                expected="a folder with train/<class>/ and val/<class>/, or with <class>/ folders",
                remedy=f"give it: python train.py data={name} data.root=/path/to/images",
            )
        self.root = Path(root).expanduser()
        self.divided = (self.root / "train").is_dir() and (self.root / "val").is_dir()
        self.classes = _classes(self.root / "train" if self.divided else self.root)
        if self.divided and (found := _classes(self.root / "val")) != self.classes:
            odd = sorted(set(found) ^ set(self.classes))
            raise UserError(f"{self.root}: train and val differ in the classes {odd[:5]}")
        self.num_classes = len(self.classes)
        self._files = {split: self._list(split) for split in self.splits}

    def _list(self, split: str) -> list[tuple[Path, int]]:
        if self.divided:
            return _files(self.root / split, self.classes)
        files = _files(self.root, self.classes)
        labels = [label for _, label in files]
        try:
            parts = train_test_split(
                np.arange(len(files)), test_size=self.val_share, random_state=self.seed, stratify=labels
            )
        except ValueError as error:
            raise UserError(
                f"{self.root} cannot be split: {error}", remedy="add images, or train/ and val/"
            ) from error
        return [files[index] for index in sorted(parts[self.splits.index(split)])]

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for split in self.splits:
            for path, label in self._files[split]:
                status = path.stat()
                digest.update(f"{split} {path} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
        return {"root": str(self.root.resolve()), "files": digest.hexdigest()}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        return self._files[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names."""
        return {"classes": self.classes}


def _classes(folder: Path) -> list[str]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes)} class folders", expected="at least two")
    return classes


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    files = []
    for label, name in enumerate(classes):
        images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
        if not images:
            raise UserError(
                f"{folder / name} holds no image",
                expected=f"files ending in {', '.join(IMG_EXTENSIONS)}",
                remedy="add images or remove the folder",
            )
        files += [(path, label) for path in images]
    return files
