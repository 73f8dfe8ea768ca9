"""Splits prepared once and kept outside the runs: written whole or not at all, by one process at a time."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mrl_experiments.data.beton import Storage, check_beton, write_beton
from mrl_experiments.data.source import Source
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, read_json, sha256, write_json

VERIFIED_BYTES = 1 << 30  # files up to this size are checked against their checksum before use
FORMAT = 1


class Cache:
    """The prepared splits of one source under `root`: <root>/<name>-<key>/<split>.beton or .npy.

    The key is a hash of all that determines the content, so a changed option never meets an old file.
    """

    def __init__(self, root: Path, source: Source, storage: dict[str, Storage]) -> None:
        self.source, self.storage = source, storage
        identity = {
            "format": FORMAT,
            "source": source.identity(),
            "storage": {split: vars(kept) for split, kept in storage.items()},
        }
        self.identity = json.loads(json.dumps(identity))
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]
        self.folder = root.expanduser() / f"{source.name}-{key}"

    def beton(self, split: str, workers: int) -> Path:
        """Return the split's .beton file, writing it first where it is missing."""

        def write(path: Path) -> None:
            samples = self.source.open(split)
            with progress(f"writing {self.source.name} {split}", len(samples)) as advance:
                write_beton(path, samples, self.source.channels, self.storage[split], workers, advance)

        path = self._prepared(split, ".beton", write)
        check_beton(path)
        return path

    def array(self, split: str) -> Path:
        """Return the split's images as a .npy file (N, H, W, C) uint8, writing it first where missing.

        Only for sources whose images have one size. Labels lie beside it as <split>.labels.npy.
        """

        def write(path: Path) -> None:
            samples = self.source.open(split)
            labels = np.empty(len(samples), dtype=np.int64)
            shape = (len(samples), *np.asarray(samples[0][0]).shape)
            images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            with progress(f"writing {self.source.name} {split}", len(samples)) as advance:
                for index in range(len(samples)):
                    images[index], labels[index] = samples[index]
                    advance(1)
            images.flush()
            with atomic_path(self.labels(split)) as temporary, temporary.open("wb") as file:
                np.save(file, labels)

        return self._prepared(split, ".npy", write)

    def labels(self, split: str) -> Path:
        """Return where the labels of an array lie."""
        return self.folder / f"{split}.labels.npy"

    def _prepared(self, split: str, suffix: str, write: Callable[[Path], None]) -> Path:
        path = self.folder / f"{split}{suffix}"
        with exclusive(self.folder / f".{split}.lock"):
            if not self._is_whole(path):
                with atomic_path(path) as temporary:
                    write(temporary)
                write_json(_manifest(path), self._describe(path, split))
        return path

    def _describe(self, path: Path, split: str) -> dict[str, Any]:
        return {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "samples": len(self.source.open(split)),
            "identity": self.identity,
            **self.source.manifest(split),
        }

    def _is_whole(self, path: Path) -> bool:
        if not (path.exists() and _manifest(path).exists()):
            return False
        manifest, size = read_json(_manifest(path)), path.stat().st_size
        if size == manifest["bytes"] and (size > VERIFIED_BYTES or sha256(path) == manifest["sha256"]):
            return True
        raise UserError(
            f"{path} has changed since it was written ({size} bytes, {manifest['bytes']} then)",
            expected="the file that its manifest describes",
            remedy=f"delete {self.folder} and repeat; it is written again",
        )


def _manifest(path: Path) -> Path:
    return path.with_name(path.name + ".json")


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system releases the lock of a process that dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in lock.parent.glob(f".{lock.name.removeprefix('.').removesuffix('.lock')}.*.part"):
            leftover.unlink(missing_ok=True)  # of a writer that was killed
        yield


def require_space(folder: Path, needed: int) -> None:
    """Raise UserError when the disk under `folder` has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{existing} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed",
            remedy="free some space, or put the cache elsewhere: data.cache=/another/disk",
        )


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on a terminal, one line elsewhere; yield the function that moves it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        print(f"{title}: {total:,} images", flush=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.update(task, advance=count)


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))
