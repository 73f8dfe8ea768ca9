"""Embeddings on disk: features by sample index, labels, classifiers, and a meta file with checksums."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    allocate,
    explain_os_errors,
    fingerprint,
    hidden_folder,
    read_object,
    reading,
    replace_folder,
    require_space,
    require_unchanged,
    write_json,
)
from mrl_experiments.heads import Heads
from mrl_experiments.locks import acquire
from mrl_experiments.loops import tracked
from mrl_experiments.nesting import prefix

FEATURES, LABELS, HEADS, META = "features.npy", "labels.npy", "heads.safetensors", "meta.json"
IDS = "ids.npy"
CLASSES = "classes.json"
DATABASES = ("database", "train")  # splits to search in, the first that is there
TEXT = "_text"  # ends the name of a split that holds the texts of another's images
VERSION = 1
PARTS = (FEATURES, LABELS, HEADS, IDS)  # whose checksums the meta file holds
OPTIONAL = (HEADS, IDS)
UNLABELLED = {"labelled": False}  # what the meta file says where labels.npy holds none
REMEDY = "repeat the embed.py command, which writes it again"


class _Labels:
    """The labels of embeddings: reading those of vectors that have none is refused."""

    def __get__(self, embeddings: "Embeddings | None", owner: type) -> NDArray[np.int64]:
        if embeddings is None:
            raise AttributeError("labels have no default")
        if (labels := vars(embeddings)["labels"]) is None:
            meta = embeddings.meta
            raise UserError(
                f"{meta.get('dataset', 'vectors')}/{meta.get('split', 'in memory')} has no labels, which are "
                "needed here",
                expected="labels, an integer or a string for each row: an array or a column of this name, or "
                "x.labels.npy beside x.npy",
                remedy="add them, or measure without: evaluation=agreement needs none",
            )
        return np.asarray(labels)

    def __set__(self, embeddings: "Embeddings", labels: NDArray[np.int64] | None) -> None:
        vars(embeddings)["labels"] = labels


@dataclass(frozen=True, repr=False)
class Embeddings:
    """The representation of one data split by one run.

    Attributes:
        features: (N, D) float32, often a read-only memory map; never modified.
        labels: (N,) int64. Of vectors without labels, given as None, reading them raises UserError.
        heads: The run's classifiers, if it has any.
        meta: Run, method, model, dataset, split, seed, dims (those trained), and what else the writer knew.
        folder: Where they lie on disk, and what is derived from them may be kept; None for those in memory.
        classes: What is known of each class, a column each in the order of labels: name, superclass,
            frequency.
        ids: (N,) how files of queries, documents and relevance call the rows, where their file says it.
        source: What a reduction was applied to, None where none was.
    """

    features: NDArray[np.float32]
    labels: _Labels = _Labels()
    heads: Heads | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    classes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ids: NDArray[np.str_] | None = None
    source: "Embeddings | None" = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """The number of features D."""
        return int(self.features.shape[1])

    @property
    def has_labels(self) -> bool:
        """Return whether `labels` can be read."""
        return vars(self)["labels"] is not None

    @property
    def unreduced(self) -> "Embeddings":
        """The same samples before any reduction."""
        return self.source or self

    @property
    def trained_dims(self) -> tuple[int, ...]:
        """The dims the run was trained at."""
        return tuple(self.meta.get("dims", (self.width,)))

    def known(self, column: str) -> list[Any]:
        """Return one column of what is known of the classes.

        Raises:
            UserError: If it is not there.
        """
        if column not in self.classes:
            raise UserError(
                f"nothing says the {column} of the classes of {self.meta.get('dataset', 'these embeddings')}",
                expected=f"a data set that knows it; known here: {', '.join(self.classes) or 'nothing'}",
                remedy=f"repeat the embed.py command, which adds {CLASSES}; data=kanji1k knows superclasses "
                "and frequencies",
            )
        return list(self.classes[column])

    def at(self, dim: int) -> NDArray[np.float32]:
        """Return the first `dim` features (N, dim) as a view.

        Raises:
            UserError: If `dim` is beyond the width.
        """
        if not 1 <= dim <= self.width:
            raise UserError(f"dim {dim} is not stored", expected=f"a dim from 1 to {self.width}")
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
        labels, meta = vars(self)["labels"], {**self.meta, "reduction": reduction}
        source = self.unreduced
        return replace(self, features=features, labels=labels, heads=heads, meta=meta, source=source)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while it is written, and first repair what a killed process left.

    Raises:
        UserError: If the place of the folder cannot be written to.
    """
    target, new, old = _paths(folder)
    with acquire(hidden_folder(target, "lock"), f"writes {folder}"):
        if target.exists() and not target.is_dir():
            raise UserError(
                f"{folder}: a file stands where a folder should be",
                expected="a folder",
                remedy="move it away",
            )
        if not target.exists():  # killed between the two moves of `finalize`
            whole = new if (new / META).exists() else old
            if whole.exists():
                whole.rename(target)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def create(folder: Path, count: int, width: int) -> None:
    """Create the files of `count` samples of `width` features: `open_arrays` fills, `finalize` places them.

    What an earlier embedding left in `folder` stays until then.

    Raises:
        UserError: If the disk is too small.
    """
    _, new, _ = _paths(folder)
    shutil.rmtree(new, ignore_errors=True)
    with explain_os_errors(folder):
        new.mkdir(parents=True)
    require_space(new, count * (4 * width + 8))
    allocate(new / FEATURES, (count, width), np.float32)
    allocate(new / LABELS, (count,), np.int64)


def open_arrays(folder: Path) -> tuple["np.memmap[Any, Any]", "np.memmap[Any, Any]"]:
    """Open features (N, D) and labels (N,) that `create` made, for writing; several processes may."""
    _, new, _ = _paths(folder)
    return np.load(new / FEATURES, mmap_mode="r+"), np.load(new / LABELS, mmap_mode="r+")


def finalize(
    folder: Path, heads: Heads | None, meta: Mapping[str, Any], ids: NDArray[np.str_] | None = None
) -> None:
    """Write heads and ids, then the meta file with shape and checksums, and put it all in place of `folder`.

    Raises:
        UserError: If features are not finite or all zero, as are those of a sample never written.
    """
    target, new, _ = _paths(folder)
    features = np.load(new / FEATURES, mmap_mode="r")
    check_finite(features, str(folder))
    if heads is not None:
        heads.save(new / HEADS)
    if ids is not None:
        np.save(new / IDS, ids)
    stored = {name: fingerprint(new / name) for name in PARTS if (new / name).exists()}
    write_json(
        new / META,
        {
            **meta,
            "version": VERSION,
            "shape": list(features.shape),
            "checksum": {name: noted.pop("sha256") for name, noted in stored.items()},
            "stored": stored,
        },
    )
    replace_folder(target, new)


def _paths(folder: Path) -> tuple[Path, Path, Path]:
    """Return where embeddings lie, where new ones are written first, and where old ones go meanwhile."""
    target = Path(os.path.realpath(folder))  # the folder may be a link to another disk
    return target, hidden_folder(target), hidden_folder(target, "old")


def write_classes(folder: Path, classes: Mapping[str, Sequence[Any]]) -> None:
    """Write what is known of the classes beside complete embeddings, unless it is there and undamaged."""
    if not classes:
        return
    meta = read_meta(folder)
    try:
        read_classes(folder, meta)
    except UserError:
        write_json(folder / CLASSES, {"of": meta["checksum"].get(FEATURES), **classes})


def weights_name(meta: Mapping[str, Any]) -> str:
    """Return how a run's embeddings by other weights than the usual ones are called, "" for the usual ones.

    Those are of the last checkpoint, averaged where the run averages; others are `best`, `current` or both.
    """
    checkpoint = meta.get("checkpoint", "last")
    current = meta.get("averaged") is False
    return "-".join(filter(None, (checkpoint if checkpoint != "last" else "", "current" if current else "")))


def is_complete(folder: Path, expected: Mapping[str, Any], *, with_heads: bool = False) -> bool:
    """Return whether `folder` holds complete, undamaged embeddings whose meta file agrees with `expected`.

    Args:
        folder: As for `create`.
        expected: Keys of the meta file with their values.
        with_heads: Whether they must have classifiers, too.
    """
    if not (folder / META).exists():
        return False
    try:
        meta = read_meta(folder)
        if any(meta.get(key) != value for key, value in expected.items()):
            return False
        _check_parts(folder, meta)
    except UserError as error:
        print(f"{error.problem}: it is written again", flush=True)
        return False
    return not with_heads or (folder / HEADS).exists()


def read_meta(folder: Path) -> dict[str, Any]:
    """Read the meta file of complete embeddings.

    Raises:
        UserError: If it is missing, damaged, of another version, or states what cannot be.
    """
    if not (folder / META).exists():
        raise UserError(f"{folder} holds no complete embeddings", remedy=REMEDY)
    meta = read_object(folder / META, REMEDY, version=VERSION)
    shape, checksums, stored = meta.get("shape"), meta.get("checksum"), meta.get("stored", {})
    noted = [checksums, stored, *(stored.values() if isinstance(stored, dict) else ())]
    if not (_are_counts(shape) and len(shape) == 2 and all(isinstance(part, dict) for part in noted)):
        raise UserError(f"{folder / META} lacks the shape or the checksums", remedy=REMEDY)
    dims = meta.get("dims", [shape[1]])
    if not (_are_counts(dims) and dims and max(dims) <= shape[1]):
        raise UserError(
            f"{folder / META} states the trained dims {dims}",
            expected=f"whole numbers from 1 to the width {shape[1]}",
            remedy=REMEDY,
        )
    return meta


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value > 0 for value in values)


def _check_parts(folder: Path, meta: Mapping[str, Any]) -> None:
    """Raise UserError when a file is not the one that the meta file was written for."""
    for name in PARTS:
        if checksum := meta["checksum"].get(name):
            noted = {**meta.get("stored", {}).get(name, {}), "sha256": checksum}
            require_unchanged(folder / name, noted, REMEDY)
        elif name not in OPTIONAL or ("stored" in meta and (folder / name).exists()):
            raise UserError(f"{folder / name} does not belong to its {META}", remedy=REMEDY)


def load(folder: Path) -> Embeddings:
    """Open complete embeddings as a read-only memory map.

    Raises:
        UserError: If the folder is incomplete, or shape, checksum or values disagree with the meta file.
    """
    meta = read_meta(folder)
    _check_parts(folder, meta)
    count, width = meta["shape"]
    features = _open(folder / FEATURES, np.float32, (count, width))
    labelled = meta.get("labelled", True)
    labels = np.array(_open(folder / LABELS, np.int64, (count,))) if labelled else None
    check_finite(features, str(folder))
    heads = Heads.load(folder / HEADS, REMEDY) if (folder / HEADS).exists() else None
    if heads and max(heads.dims()) > width:
        raise UserError(
            f"{folder / HEADS} classifies {max(heads.dims())} features, stored are {width}", remedy=REMEDY
        )
    classes = read_classes(folder, meta) if (folder / CLASSES).exists() else {}
    ids = _open(folder / IDS, np.str_, (count,)) if (folder / IDS).exists() else None
    return Embeddings(features, labels, heads, meta, folder, classes, ids)


def _open(path: Path, kind: type, shape: tuple[int, ...]) -> NDArray[Any]:
    with reading(path, "a .npy file", REMEDY, "cannot be read"):
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    if array.shape != shape or not np.issubdtype(array.dtype, kind):
        raise UserError(
            f"{path} holds {array.dtype} of the shape {array.shape}",
            expected=f"{np.dtype(kind)} of the shape {shape} that its {META} states",
            remedy=REMEDY,
        )
    return array


def read_classes(folder: Path, meta: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what is known of the classes of embeddings with this meta, a column each.

    Raises:
        UserError: If the file is missing, damaged, or belongs to other embeddings; old files name a data set.
    """
    path = folder / CLASSES
    columns = read_object(path, REMEDY)
    if columns.pop("of", None) not in (None, meta.get("dataset"), meta["checksum"].get(FEATURES)):
        raise UserError(f"{path} belongs to other embeddings", expected="those beside it", remedy=REMEDY)
    if not all(isinstance(column, list) for column in columns.values()):
        raise UserError(f"{path} holds more than lists", remedy=REMEDY)
    return columns


def check_finite(
    features: NDArray[np.float32],
    name: str,
    remedy: str = "check the training run and repeat embed.py",
    block: int = 65536,
) -> None:
    """Raise UserError that counts the samples with NaN or infinite values, or with zeros only."""
    bad: list[int] = []
    zero: list[int] = []
    starts = range(0, len(features), block)
    for start in tracked(starts, f"reading {name}", len(starts)):
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
    """Return the width that all parts have in common.

    Raises:
        UserError: If they differ.
    """
    widths = sorted({part.width for part in parts})
    if len(widths) != 1:
        raise UserError(f"embeddings of different widths {widths}", expected="one width")
    adaptors = {part.meta.get("adaptor") for part in parts}
    if len(adaptors) > 1:
        raise UserError(
            f"embeddings of different adaptors ({', '.join(map(str, adaptors))}), which are not comparable",
            expected="all by one adaptor, or all as the frozen model made them",
        )
    return widths[0]
