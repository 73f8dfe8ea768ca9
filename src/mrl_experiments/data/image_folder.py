"""Images in one folder per class, as torchvision's ImageFolder has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from mrl_experiments.data.class_list import class_folders
from mrl_experiments.data.image_files import Files, existing_root, files_digest, image_files
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
        self.root = existing_root(name, root, "train/<class>/ and val/<class>/, or with <class>/ folders")
        self.divided = (self.root / "train").is_dir() and (self.root / "val").is_dir()
        self.classes = _classes(self.root / "train" if self.divided else self.root)
        if self.divided and (found := _classes(self.root / "val")) != self.classes:
            odd = sorted(set(found) ^ set(self.classes))
            raise UserError(f"{self.root}: train and val differ in the classes {odd[:5]}")
        self.num_classes = len(self.classes)
        self._files = {split: self._list(split) for split in self.splits}

    def _list(self, split: str) -> Files:
        labels = {name: label for label, name in enumerate(self.classes)}
        if self.divided:
            return image_files(self.root / split, labels)
        files = image_files(self.root, labels)
        try:
            parts = train_test_split(
                np.arange(len(files)),
                test_size=self.val_share,
                random_state=self.seed,
                stratify=[label for _, label in files],
            )
        except ValueError as error:
            raise UserError(
                f"{self.root} cannot be split: {error}", remedy="add images, or train/ and val/"
            ) from error
        return [files[index] for index in sorted(parts[self.splits.index(split)])]

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: names, sizes and times of change of all files."""
        return {"root": str(self.root.resolve()), "files": files_digest(self._files)}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        return self._files[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names."""
        return {"classes": self.classes}


def _classes(folder: Path) -> list[str]:
    classes = class_folders(folder)
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes)} class folders", expected="at least two")
    return classes
