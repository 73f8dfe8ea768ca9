"""Your own images with captions, from a CSV or TSV file."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrl_experiments.data.captions.caption_table import Pair, read_pairs
from mrl_experiments.data.reading import listed
from mrl_experiments.data.source import Sample
from mrl_experiments.data.splits import BY_POSITION, SPLITS, held_out_names, is_by_name
from mrl_experiments.errors import UserError

Labels = NDArray[np.int64]
TABLES = ("captions.csv", "captions.tsv")
FOREIGN = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".tar", ".xlsx")


class ImageTextFolder:
    """The pairs of a table, see `caption_table`; what cannot be used is named, counted and left out.

    A label is all images and captions that belong together: several captions of an image, several images of
    a caption. The table's column `split` says train, val or test (then a third split; without val, test is
    it); without it, about `val_share` of the labels is held out: with split=by_name by a hash of a label's
    first image path, so that adding or removing pairs moves no other label; with by_position by place in
    the table, as runs of before have it.

    Raises:
        UserError: Without a table, when a split is empty, or when a label is in several splits.
    """

    channels = 3
    size: int | None = None
    splits: tuple[str, ...] = ("train", "val")

    def __init__(
        self, name: str, root: str | None, val_share: float, seed: int, split: str = BY_POSITION
    ) -> None:
        self.name = name
        self.table = _table(name, root)
        self.root = self.table.parent
        pairs, self.reading = read_pairs(self.table)
        for line in self.reading.lines():
            print(f"{self.table}: {line}", flush=True)
        labels = _together(pairs)
        self.num_classes = int(labels.max()) + 1
        texts: list[dict[str, None]] = [{} for _ in range(self.num_classes)]
        names = [""] * self.num_classes
        for pair, label in zip(pairs, labels, strict=True):
            texts[label][pair.caption] = None
            shown = os.path.relpath(pair.image, self.root)
            names[label] = min(names[label] or shown, shown)
        self.captions, self.names = [list(one) for one in texts], names
        sides = _stated(pairs, labels) or _drawn(names, val_share, seed, split)
        self.splits = tuple(split for split in SPLITS if split in {*ImageTextFolder.splits, *sides})
        if missing := {*self.splits} - {*sides}:
            raise UserError(
                f"{self.table}: no pair is in {missing.pop()}", remedy="add pairs, or a column split"
            )
        self._samples: dict[str, list[Sample]] = {
            split: sorted(
                {(pair.image, int(label)) for pair, label in zip(pairs, labels, strict=True)
                 if sides[label] == split}
            )
            for split in self.splits
        }  # fmt: skip

    def labels(self, split: str) -> Sequence[int]:
        """Return the labels of a split."""
        return sorted({label for _, label in self._samples[split]})

    def identity(self) -> dict[str, Any]:
        """Return what determines images and labels: names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for split, samples in self._samples.items():
            for path, label in samples:
                status = Path(path).stat()  # type: ignore[arg-type]
                line = f"{split} {path} {label} {status.st_size} {status.st_mtime_ns}\n"
                digest.update(os.fsencode(line))
        return {"table": str(self.table), "files": digest.hexdigest()}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split: each image once."""
        return self._samples[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the captions of each label, and an account of how the table was read."""
        captions = {str(label): self.captions[label] for label in self.labels(split)}
        return {"captions": captions, "reading": self.reading.manifest()}


def _table(name: str, root: str | None) -> Path:
    path = Path(root or "").expanduser().absolute()
    if path.is_file():
        return path
    there = sorted(path.iterdir()) if root is not None and path.is_dir() else []
    found = [one for one in there if one.name.lower() in TABLES]
    if len(found) != 1:
        foreign = [one.name for one in there if one.name.lower().endswith(FOREIGN)]
        named = f"; {listed(foreign)} is not read" if foreign and not found else ""
        raise UserError(
            f"data.root={root} is no table of captions and holds {len(found) or 'none'}{named}",
            expected="captions.csv or captions.tsv with the columns image and caption, or its folder",
            remedy=f"give it: python train.py data={name} data.root=/path/captions.csv",
        )
    return found[0]


def _together(pairs: Sequence[Pair]) -> Labels:
    """Return (N,) labels: pairs that share an image or a caption have one, and so on along such chains."""
    images = {path: number for number, path in enumerate({pair.image: None for pair in pairs})}
    captions = {text: number for number, text in enumerate({pair.caption: None for pair in pairs})}
    row = np.array([images[pair.image] for pair in pairs])
    column = np.array([captions[pair.caption] for pair in pairs]) + len(images)
    count = len(images) + len(captions)
    _, group = connected_components(coo_array((np.ones(len(pairs)), (row, column)), shape=(count, count)))
    _, labels = np.unique(group[row], return_inverse=True)
    return labels.astype(np.int64)


def _stated(pairs: Sequence[Pair], labels: Labels) -> list[str]:
    """Return the split of each label as the table says, or nothing where it does not."""
    sides: dict[int, str] = {}
    torn: dict[int, Pair] = {}
    for pair, label in zip(pairs, labels.tolist(), strict=True):
        if sides.setdefault(label, pair.split) != pair.split:
            torn.setdefault(label, pair)
    if torn:
        label, pair = next(iter(torn.items()))
        raise UserError(
            f"{len(torn)} groups of images and captions are in several splits: {pair.image.name}, or what "
            f"shares its caption, is in the splits {sides[label] or 'none'!r} and {pair.split or 'none'!r}",
            expected="train or val in the column split, the same for all that belongs together",
        )
    return [sides[label] for label in sorted(sides)] if any(sides.values()) else []


def _drawn(names: Sequence[str], val_share: float, seed: int, split: str) -> list[str]:
    """Return the split of each label; names: the first image path of each."""
    if is_by_name(split):
        val = held_out_names(names, val_share, seed)
        return ["val" if name in val else "train" for name in names]
    order = np.random.default_rng(seed).permutation(len(names))
    return ["val" if place < max(1, round(val_share * len(names))) else "train" for place in order]
