"""What is handed over: embeddings of a run or a file of vectors, with what belongs to each row."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from omegaconf import DictConfig

from mrl_experiments.embeddings import DATABASES, META, Embeddings, check_finite, load
from mrl_experiments.engines.payload import INT, TEXT, Column, read_payload
from mrl_experiments.errors import UserError
from mrl_experiments.external.vector_file import read_vectors
from mrl_experiments.files import sha256
from mrl_experiments.next_commands import next_command
from mrl_experiments.runs import find_run

ROWS = 512  # at a time, so that they stay in the cache
LABEL, CLASS, KEY = "label", "class_name", "key"


@dataclass(frozen=True)
class Source:
    """Vectors with what belongs to each row.

    Attributes:
        name: What a collection is called by default.
        vectors: (N, D), perhaps a memory map.
        columns: By name, what else is stored of each row: `label`, `class_name`, `key` (ids of the file), and
            those of a payload.
        digest: Of all content that is written.
        dims: The nested dims, as far as they are known.
    """

    name: str
    vectors: NDArray[Any]
    columns: Mapping[str, Column]
    digest: str
    dims: Sequence[int]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """The number of features D."""
        return int(self.vectors.shape[1])

    def block(self, start: int, stop: int) -> "Block":
        """Return the rows from start to stop."""
        rows = np.asarray(self.vectors[start:stop], np.float32)
        return Block(start, rows, {name: column[start:stop] for name, column in self.columns.items()})


@dataclass(frozen=True)
class Block:
    """Rows of a source: vectors (n, D) float32 and values of each column; the first id is `start`."""

    start: int
    vectors: NDArray[np.float32]
    columns: Mapping[str, Column]

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (n,)."""
        return np.arange(self.start, self.start + len(self.vectors))


def find_source(cfg: DictConfig) -> Source:
    """Return what conf/export.yaml, composed, names: a run's split, or a file.

    Raises:
        UserError: If there is none, or a payload does not fit.
    """
    if bool(cfg.run) == bool(cfg.embeddings):
        raise UserError(
            "both run= and embeddings= are given" if cfg.run else "there is nothing to write",
            expected="either run=<name>, or embeddings=<file of vectors>",
        )
    found = _of_run(cfg) if cfg.run else _of_file(Path(cfg.embeddings))
    if not cfg.payload:
        return found
    path = Path(cfg.payload)
    columns = read_payload(path, len(found), taken=found.columns)
    digest = hashlib.sha256(f"{found.digest} {sha256(path)}".encode()).hexdigest()
    return Source(found.name, found.vectors, {**found.columns, **columns}, digest, found.dims)


def _of_run(cfg: DictConfig) -> Source:
    run = find_run(cfg.root, cfg.run)
    dataset, _, split = str(cfg.split or "").rpartition("/")
    dataset = dataset or str(run.config.data.name)
    there = sorted(path.parent.name for path in run.embeddings(dataset, "*").parent.glob(f"[!.]*/{META}"))
    usual = next((name for name in DATABASES if name in there), there[0] if len(there) == 1 else "")
    if (split or usual) not in there:
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}/{split}"
            if split
            else f"{run.name}: which split?",
            expected=f"split=<one of {', '.join(there)}>" if there else "embeddings written by embed.py",
            remedy="" if there else next_command("embed.py", run.root, {"run": run.name}),
        )
    found = load(run.embeddings(dataset, split or usual))
    name = f"{run.name}_{split or usual}"
    known = [sorted(found.meta["checksum"].items()), found.classes.get("name")]
    digest = hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()
    return Source(name, found.features, _columns(found), digest, found.trained_dims)


def _columns(found: Embeddings) -> dict[str, Column]:
    """Return labels, names of classes and ids as columns."""
    columns: dict[str, Column] = {}
    if found.has_labels:
        columns[LABEL] = Column(INT, found.labels)
        if names := found.classes.get("name"):
            columns[CLASS] = Column(TEXT, np.array(names, object)[found.labels])
    if found.ids is not None:
        columns[KEY] = Column(TEXT, found.ids)
    return columns


def _of_file(path: Path) -> Source:
    found = read_vectors(path)
    columns: dict[str, Column] = {}
    if found.labels is not None:
        text = found.labels.dtype.kind == "U"
        columns[CLASS if text else LABEL] = Column(TEXT if text else INT, found.labels)
    if found.ids is not None:
        columns[KEY] = Column(TEXT, found.ids)
    digest = hashlib.blake2b(checked_digest(found.features, path).encode(), digest_size=16)
    for name, column in columns.items():
        digest.update(name.encode() + column.values.tobytes())
    return Source(path.stem, found.features, columns, digest.hexdigest(), (found.features.shape[1],))


def checked_digest(vectors: NDArray[Any], path: Path) -> str:
    """Return a digest of vectors (N, D) in one pass, in which none may be zero, infinite or NaN.

    It is XXH3 of the values as float32, so that the same numbers in another type have the same: as fast as
    memory, which a cryptographic one is not by far, and the same on every machine.

    Raises:
        UserError: For vectors without a direction, with how many and the first.
    """
    digest = xxhash.xxh3_128(repr(vectors.shape).encode())
    for start in range(0, len(vectors), ROWS):
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.ascontiguousarray(vectors[start : start + ROWS], "<f4")
            squares = np.vecdot(block, block)
        digest.update(block.data)
        if not (np.isfinite(squares) & (squares > 0)).all():  # or so large or small that squares are
            check_finite(vectors, str(path), remedy="leave these vectors out, or embed them again")
            _check_float32(block, start, path)
    return str(digest.hexdigest())


def _check_float32(block: NDArray[np.float32], start: int, path: Path) -> None:
    """Refuse rows of which float32 made infinite numbers or zeros alone."""
    lost = ~(np.isfinite(block).all(axis=1) & block.any(axis=1))
    if lost.any():
        raise UserError(
            f"{path}: float32 cannot hold sample {start + int(lost.argmax())}, too large or too small",
            expected="numbers up to 3e38, and vectors of which some exceed 1e-45",
            remedy="scale all vectors alike",
        )
