"""Embeddings on disk: features by sample index, labels, classifiers, and a meta file that seals them."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import read_json, require_space, sha256, write_json
from mrl_experiments.heads import Heads
from mrl_experiments.nesting import prefix

FEATURES, LABELS, HEADS, META = "features.npy", "labels.npy", "heads.safetensors", "meta.json"
CLASSES = "classes.json"
TEXT = "_text"  # ends the name of a split that holds the texts of another's images
VERSION = 1


@dataclass(frozen=True)
class Embeddings:
    """The representation of one data split by one run.

    features: (N, D) float32, often a read-only memory map; never modified.
    labels: (N,) int64. heads: the run's classifiers, if it has any.
    meta: run, method, model, dataset, split, seed, dims (those trained), and what else the writer knew.
    folder: where they lie on disk, and what is derived from them may be kept; None for those in memory.
    classes: what is known of each class, a column each in the order of labels: name, superclass, frequency.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    heads: Heads | None
    meta: Mapping[str, Any]
    folder: Path | None = None
    classes: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """The number of features D."""
        return int(self.features.shape[1])

    @property
    def trained_dims(self) -> tuple[int, ...]:
        """The sizes the run was trained at."""
        return tuple(self.meta.get("dims", (self.width,)))

    def known(self, column: str) -> list[Any]:
        """Return one column of what is known of the classes. Raises UserError when it is not there."""
        if column not in self.classes:
            raise UserError(
                f"nothing says the {column} of the classes of {self.meta.get('dataset', 'these embeddings')}",
                expected=f"a data set that knows it; known here: {', '.join(self.classes) or 'nothing'}",
                remedy=f"repeat the embed.py command, which adds {CLASSES}; data=kanji1k knows superclasses "
                "and frequencies",
            )
        return list(self.classes[column])

    def at(self, dim: int) -> NDArray[np.float32]:
        """Return the first `dim` features (N, dim) as a view. Raises UserError beyond the width."""
        if not 1 <= dim <= self.width:
            raise UserError(f"dim {dim} is not stored", expected=f"a size from 1 to {self.width}")
        return prefix(self.features, dim)

    @property
    def identity(self) -> str:
        """A short digest of the stored features and what was done to them since."""
        content = [self.meta.get("checksum", {}).get(FEATURES), self.meta.get("reduction")]
        return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()

    def with_features(
        self, features: NDArray[np.float32], heads: Heads | None, *, reduction: str
    ) -> "Embeddings":
        """Return the same samples under another representation, named by what made it."""
        return replace(self, features=features, heads=heads, meta={**self.meta, "reduction": reduction})


def create(folder: Path, count: int, width: int) -> None:
    """Make room for `count` samples of `width` features: `open_arrays` fills it, `seal` makes it complete.

    All that an earlier embedding left is removed first, so a half-written folder is never taken for complete.
    Raises UserError when the disk is too small.
    """
    if folder.exists():
        (folder / META).unlink(missing_ok=True)  # first of all
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    require_space(folder, count * (4 * width + 8))
    for name, dtype, shape in ((FEATURES, np.float32, (count, width)), (LABELS, np.int64, (count,))):
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)


def open_arrays(folder: Path) -> tuple["np.memmap[Any, Any]", "np.memmap[Any, Any]"]:
    """Open features (N, D) and labels (N,) that `create` made, for writing; several processes may."""
    return np.load(folder / FEATURES, mmap_mode="r+"), np.load(folder / LABELS, mmap_mode="r+")


def seal(folder: Path, heads: Heads | None, meta: Mapping[str, Any]) -> None:
    """Write the heads, then the meta file with shape and checksums, last and atomically.

    Raises UserError when features are not finite or all zero, as are those of a sample never written.
    """
    features = np.load(folder / FEATURES, mmap_mode="r")
    check_finite(features, str(folder))
    if heads is not None:
        heads.save(folder / HEADS)
    write_json(
        folder / META,
        {
            **meta,
            "version": VERSION,
            "shape": list(features.shape),
            "checksum": {name: sha256(folder / name) for name in (FEATURES, LABELS)},
        },
    )


def keep_classes(folder: Path, classes: Mapping[str, Sequence[Any]]) -> None:
    """Write what is known of the classes beside sealed embeddings, unless it is there."""
    if classes and not (folder / CLASSES).exists():
        write_json(folder / CLASSES, dict(classes))


def is_complete(folder: Path, expected: Mapping[str, Any]) -> bool:
    """Tell whether `folder` holds sealed embeddings whose meta agrees with `expected`."""
    if not (folder / META).exists():
        return False
    meta = read_json(folder / META)
    return meta.get("version") == VERSION and all(meta.get(key) == value for key, value in expected.items())


def load(folder: Path, *, verify: bool = True) -> Embeddings:
    """Open sealed embeddings as a read-only memory map.

    Raises UserError when the folder is incomplete, or shape, checksum or values disagree with the meta file.
    """
    remedy = "repeat embed.py with overwrite=true"
    if not (folder / META).exists():
        raise UserError(f"{folder} holds no complete embeddings", remedy=remedy)
    meta = read_json(folder / META)
    try:
        features: NDArray[np.float32] = np.load(folder / FEATURES, mmap_mode="r")
        labels = np.load(folder / LABELS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {error}", expected=f"{FEATURES} and {LABELS}", remedy=remedy) from error
    if list(features.shape) != meta["shape"] or len(labels) != len(features):
        raise UserError(
            f"{folder}: features {features.shape} and {len(labels)} labels",
            expected=f"the shape {tuple(meta['shape'])} that its {META} states",
            remedy=remedy,
        )
    if verify:
        for name, checksum in meta["checksum"].items():
            if sha256(folder / name) != checksum:
                raise UserError(f"{folder / name} has changed since it was written", remedy=remedy)
        check_finite(features, str(folder))
    heads = Heads.load(folder / HEADS) if (folder / HEADS).exists() else None
    classes = read_json(folder / CLASSES) if (folder / CLASSES).exists() else {}
    return Embeddings(features, labels, heads, meta, folder, classes)


def check_finite(
    features: NDArray[np.float32],
    name: str,
    remedy: str = "check the training run and repeat embed.py",
    block: int = 65536,
) -> None:
    """Raise UserError that counts the samples with NaN or infinite values, or with zeros only."""
    bad: list[int] = []
    zero: list[int] = []
    for start in range(0, len(features), block):
        part = features[start : start + block]
        peak = np.abs(part).max(axis=1)
        bad.extend((start + np.flatnonzero(~np.isfinite(peak))).tolist())
        zero.extend((start + np.flatnonzero(peak == 0)).tolist())
    for kind, rows in (("NaN or infinite values", bad), ("zeros only", zero)):
        if rows:
            raise UserError(
                f"{name}: {len(rows)} of {len(features)} embeddings hold {kind}, first sample {rows[0]}",
                expected="finite, non-zero vectors (a zero vector has no direction)",
                remedy=remedy,
            )


def shared_width(parts: Sequence[Embeddings]) -> int:
    """Return the width that all parts have in common. Raises UserError when they differ."""
    widths = sorted({part.width for part in parts})
    if len(widths) != 1:
        raise UserError(f"embeddings of different widths {widths}", expected="one width")
    return widths[0]
