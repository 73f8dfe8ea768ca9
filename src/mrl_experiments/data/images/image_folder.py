"""Images in one folder per class, as torchvision's ImageFolder has them."""

import hashlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.data.images.folder_source import FolderSource
from mrl_experiments.data.images.image_files import Files, class_folders, image_files, plain
from mrl_experiments.data.images.split_folders import class_home, named_like, split_folders
from mrl_experiments.data.reading import Tally, shown
from mrl_experiments.data.splits import BY_POSITION, divided, is_by_name, split_of
from mrl_experiments.errors import UserError


class ImageFolder(FolderSource):
    """Either <root>/train/<class>/* and <root>/val/<class>/*, or <root>/<class>/* with a seeded split.

    Which folders are splits: see `split_folders`. Without one for `val`, a share of `train` is held out;
    `test` is one more split.

    Args:
        val_share: The share that is held out.
        split: by_name: by the hash of a file's own name and the seed, so that other files move none;
            by_position in the sorted list, as runs have it that know no `split` (they also list what versions
            of then
            listed: no linked folders, but hidden files).

    Raises:
        UserError: For a missing root, a class without images, classes in `val` that `train` lacks, or splits
            inside the classes.
    """

    splits: tuple[str, ...] = ("train", "val")

    def __init__(
        self, name: str, root: str | None, val_share: float, seed: int, split: str = BY_POSITION
    ) -> None:
        super().__init__(name, root, "train/<class>/ and val/<class>/, or with <class>/ folders")
        self.val_share, self.seed, self.by_name = val_share, seed, is_by_name(split)
        homes = split_folders(self.root, self.skipped)
        train = class_home(homes["train"]) if homes else self.root
        self.classes = _classes(train, self.root, self.skipped)
        self._files = {"train": self._list(train)}
        if "val" in homes:
            self._files["val"] = self._list(homes["val"], train)
        else:
            self._files = self._divided(self._files["train"], train)
        if "test" in homes and (test := self._list(homes["test"], train, strict=False)):
            self.splits = (*self.splits, "test")
            self._files["test"] = test

    def _list(self, home: Path, train: Path | None = None, *, strict: bool = True) -> Files:
        """Return the images of a split. `train`, for other splits: its classes are all that may be there."""
        labels = {name: label for label, name in enumerate(self.classes)}
        skipped = Tally()
        if train is not None:
            label_of = {plain(name): label for name, label in labels.items()}
            home = class_home(home, label_of)
            names = class_folders(home, skipped)
            labels = {name: label_of[plain(name)] for name in names if plain(name) in label_of}
            others = [name for name in names if name not in labels]
            if others and strict:
                raise UserError(
                    f"{shown(home)} has {len(others)} classes that {shown(train)} lacks: "
                    f"{', '.join(named_like(name, self.classes) for name in others[:5])}",
                    expected="folders of the same names; a class may be missing there",
                    remedy="rename or remove them, or add images of them to train",
                )
            for name in others:
                skipped.add("folder that is no class of train", name)
        files = image_files(home, labels, skipped, all_classes=train is None, as_before=not self.by_name)
        self.skipped.add_all(skipped)
        self._look_inside(files, home)
        if not files and strict:
            left_out = f"; skipped {skipped}" if skipped.total else ""
            raise UserError(
                f"{shown(home)} holds no image of the classes of train{left_out}",
                expected="folders named like those of train",
                remedy="put its images into such folders",
            )
        return files

    def _look_inside(self, files: Files, home: Path) -> None:
        """Count images in folders inside class folders.

        Raises:
            UserError: If these are splits.
        """
        inner: dict[str, set[str]] = defaultdict(set)
        for path, _ in files:
            name, *folders, _ = path.relative_to(home).parts
            if folders:
                inner[name].add(folders[0])
                self.noted.add("in folders inside those of classes", path.relative_to(self.root))
        for name, within in inner.items() if self.by_name else ():
            if {"train"} < {split_of(folder) for folder in within} - {None}:
                place = shown(home / name)
                raise UserError(
                    f"{place} has the folders {', '.join(sorted(map(shown, within)))}: splits inside classes",
                    expected="classes inside splits: train/<class>/ and val/<class>/, or <class>/ alone",
                    remedy=f"move them, or name one whose folders hold classes: data.root={place}",
                )

    def _divided(self, files: Files, home: Path) -> dict[str, Files]:
        """Return what `val_share` and the seed make of the images below `home`."""
        if self.by_name:
            return self._by_name(files, home)
        from sklearn.model_selection import train_test_split  # takes as long as all else that data import

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
        return {
            split: [files[index] for index in sorted(part)]
            for split, part in zip(("train", "val"), parts, strict=True)
        }

    def _by_name(self, files: Files, home: Path) -> dict[str, Files]:
        names = [os.fsencode(path.relative_to(home).as_posix()) for path, _ in files]

        def held_out(seed: int) -> list[bool]:
            return [_place(seed, name) < self.val_share for name in names]

        def serves(seed: int) -> bool:
            held = held_out(seed)
            left = {label for (_, label), out in zip(files, held, strict=True) if not out}
            return any(held) and len(left) == self.num_classes

        if not serves(self.seed):
            other = next((seed for seed in range(100) if serves(seed)), None)
            by_seed = f"data.source.seed={other}, " if other is not None else ""
            raise UserError(
                f"{self.root} cannot be split: with val_share={self.val_share} and seed={self.seed} val is "
                f"empty, or a class is left without training images ({len(files)} images in all)",
                expected="images of each class for train, and some for val",
                remedy=f"{by_seed}another data.source.val_share=, more images, or train/ and val/",
            )
        held = dict(zip(files, held_out(self.seed), strict=True))
        return divided(files, held.__getitem__)

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names, what lies in the folder and was not read, and images in inner folders."""
        return {**super().manifest(split), "nested": self.noted.described()}


def _classes(folder: Path, root: Path, skipped: Tally) -> list[str]:
    classes = class_folders(folder, beside := Tally())
    if len(classes) < 2:
        inner = [name for name in classes if len(class_folders(folder / name)) > 1]
        others = f"; beside, {beside}" if beside.total else ""
        raise UserError(
            f"{shown(folder)} has {len(classes)} class folders{others}",
            expected="at least two",
            remedy=f"data.root={shown(folder / inner[0])}"
            if inner and folder == root
            else "put the images of each class into a folder named like it",
        )
    skipped.add_all(beside)
    for what, keys in (
        ("one folder", [(folder / name).resolve() for name in classes]),
        ("the same letters, written in two ways", [plain(name) for name in classes]),
    ):
        first: dict[Any, str] = {}
        for name, key in zip(classes, keys, strict=True):
            if (other := first.setdefault(key, name)) != name:
                raise UserError(
                    f"{shown(folder)}: the classes {other!a} and {name!a} are {what}",
                    expected="classes of different images and names",
                    remedy="remove one, or put the images into one folder",
                )
    return classes


def _place(seed: int, name: bytes) -> float:
    """Return a number from 0 to 1 that depends on nothing but a file's name and the seed."""
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
