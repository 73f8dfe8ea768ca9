"""Images in one folder per class, as torchvision's ImageFolder has them."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from mrl_experiments.data.image_files import (
    Files,
    class_folders,
    existing_root,
    files_digest,
    image_files,
    reading_report,
)
from mrl_experiments.data.source import Sample
from mrl_experiments.data.tally import Tally, shown
from mrl_experiments.errors import UserError

# Folders that are splits, whatever the case of their letters.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BY_NAME, BY_POSITION = "by_name", "by_position"


class ImageFolder:
    """Either <root>/train/<class>/* and <root>/val/<class>/*, or <root>/<class>/* with a seeded split.

    Folders are known as splits by the names in SPLIT_NAMES. Without one for `val`, a share of `train` is held
    out; `test` is one more split. `split`: by_name, where the hash of a file's own name and the seed decides,
    so that other files move none; or by_position in the sorted list, as runs have it that know no `split`
    (they also list what versions of then listed: no linked folders, but hidden files).
    Raises UserError for a missing root, a class without images, or classes in `val` that `train` lacks.
    """

    channels = 3
    size: int | None = None
    splits: tuple[str, ...] = ("train", "val")

    def __init__(
        self, name: str, root: str | None, val_share: float, seed: int, split: str = BY_POSITION
    ) -> None:
        if split not in (BY_NAME, BY_POSITION):
            raise UserError(f"data.source.split={split}", expected=f"{BY_NAME} or {BY_POSITION}")
        self.name, self.val_share, self.seed, self.split = name, val_share, seed, split
        self.root = existing_root(name, root, "train/<class>/ and val/<class>/, or with <class>/ folders")
        self.skipped = Tally()
        homes = split_folders(self.root, self.skipped)
        train = homes.get("train", self.root)
        self.classes = _classes(train, self.root, self.skipped)
        self.num_classes = len(self.classes)
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
            others = sorted(set(class_folders(home, skipped)) - set(labels))
            if others and strict:
                raise UserError(
                    f"{shown(home)} has {len(others)} classes that {shown(train)} lacks: "
                    f"{', '.join(map(shown, others[:5]))}",
                    expected="folders of the same names; a class may be missing there",
                    remedy="rename or remove them, or add images of them to train",
                )
            for name in others:
                skipped.add("folder that is no class of train", name)
        files = image_files(
            home, labels, skipped, all_classes=train is None, as_before=self.split == BY_POSITION
        )
        self.skipped.add_all(skipped)
        if not files and strict:
            raise UserError(f"{shown(home)} holds no image of the classes of train", remedy="add some")
        return files

    def _divided(self, files: Files, home: Path) -> dict[str, Files]:
        """Return what `val_share` and the seed make of the images below `home`."""
        if self.split == BY_NAME:
            return self._by_name(files, home)
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
        if not 0 < self.val_share < 1:
            raise UserError(f"data.source.val_share={self.val_share}", expected="a share between 0 and 1")
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
        sides = {False: "train", True: "val"}
        parts: dict[str, Files] = {"train": [], "val": []}
        for file, out in zip(files, held_out(self.seed), strict=True):
            parts[sides[out]].append(file)
        return parts

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: names, sizes and times of change of all files."""
        return {"files": files_digest(self._files, self.root)}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        return self._files[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names, and what lies in the folder and was not read."""
        return {"classes": self.classes, "skipped": self.skipped.described()}

    def report(self) -> str:
        """Return one line: what is read and what is not."""
        return reading_report(self.name, self._files, self.num_classes, self.skipped)


def split_folders(root: Path, skipped: Tally) -> dict[str, Path]:
    """Return {train, val, test: folder} of those there are; nothing where the folders are classes.

    A folder named like a split is a class where others are its siblings and it holds no folders itself.
    Raises UserError for two folders of one split, or splits without `train`.
    """
    names = class_folders(root, beside := Tally())
    splits = [name for name in names if name.casefold() in SPLIT_NAMES]
    others = [name for name in names if name not in splits]
    if others and not any(class_folders(root / name) for name in splits):
        return {}
    kinds = Counter(SPLIT_NAMES[name.casefold()] for name in splits)
    twice = [kind for kind, count in kinds.items() if count > 1]
    if twice or (splits and "train" not in kinds):
        raise UserError(
            f"{shown(root)} has the folders {', '.join(splits)}: "
            + (f"which of them is {twice[0]}?" if twice else "a split for training is missing"),
            expected="train/, and perhaps val/ and test/, or class folders of other names",
            remedy="rename or move them"
            + ("" if twice else f", or name the folder itself: data.root={shown(root / splits[0])}"),
        )
    for name in others:
        beside.add("folder beside the splits", name)
    if splits:
        skipped.add_all(beside)
    return {SPLIT_NAMES[name.casefold()]: root / name for name in splits}


def _classes(folder: Path, root: Path, skipped: Tally) -> list[str]:
    classes = class_folders(folder, skipped)
    if len(classes) < 2:
        inner = [name for name in classes if len(class_folders(folder / name)) > 1]
        raise UserError(
            f"{shown(folder)} has {len(classes)} class folders",
            expected="at least two",
            remedy=f"data.root={shown(folder / inner[0])}"
            if inner and folder == root
            else "put the images of each class into a folder named like it",
        )
    return classes


def _place(seed: int, name: bytes) -> float:
    """Return a number from 0 to 1 that depends on nothing but a file's name and the seed."""
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
