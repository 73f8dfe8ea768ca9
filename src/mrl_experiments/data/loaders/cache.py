"""Splits prepared once and kept outside the runs: written whole or not at all, by one process at a time."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.data.artifact_cache import cached, keyed_folder, manifest_path
from mrl_experiments.data.images.read_image import Readings, gathered
from mrl_experiments.data.loaders.beton import Storage
from mrl_experiments.data.loaders.beton_writer import write_beton
from mrl_experiments.data.loaders.parallel import run_workers
from mrl_experiments.data.source import Sample, Source
from mrl_experiments.files import allocate, read_object, require_space
from mrl_experiments.names import check_name
from mrl_experiments.progress import progress

FORMAT = 1
FILES_FORMAT = 4  # of what is read from image files: how files become pixels


class Cache:
    """The prepared splits of one source under `root`: <root>/<name>-<key>/<split>.beton or .samples.npy."""

    def __init__(self, root: Path, source: Source, storage: dict[str, Storage]) -> None:
        self.source, self.storage = source, storage
        self.described: dict[str, dict[str, Any]] = {}  # the manifest of each split that is ready
        identity = {
            "format": FORMAT if source.size else FILES_FORMAT,
            "source": source.identity(),
            "storage": {split: vars(kept) for split, kept in storage.items()},
        }
        self.identity = json.loads(json.dumps(identity))
        self.folder = keyed_folder(root, source.name, self.identity)
        for split in source.splits:
            check_name(split, f"a split of {source.name}")

    def beton(self, split: str, workers: int) -> Path:
        """Return the split's .beton file, writing it first where it is missing."""

        def write(path: Path) -> Mapping[str, Any]:
            samples = self._open(split)
            with progress(f"writing {self.source.name} {split}", len(samples)) as advance:
                return write_beton(path, samples, self.source.channels, self.storage[split], workers, advance)

        return self._prepared(split, ".beton", write)

    def array(self, split: str, workers: int) -> Path:
        """Return the split as a .npy file of records (image (H, W, C) uint8, label), written where missing.

        Only for sources whose images have one size.
        """

        def write(path: Path) -> Mapping[str, Any]:
            samples = self._open(split)
            record = np.dtype([("image", "u1", np.asarray(samples[0][0]).shape), ("label", "<i8")])
            records = allocate(path, (len(samples),), record)

            def fill(chunks: Iterator[range]) -> None:
                for index in chain.from_iterable(chunks):
                    records[index] = samples[index]

            with progress(f"writing {self.source.name} {split}", len(samples)) as advance:
                run_workers(len(samples), workers, fill, advance)
            records.flush()
            return {}

        return self._prepared(split, ".samples.npy", write)

    def files(self, split: str, workers: int) -> Sequence[Sample]:
        """Return samples that stay in their own files, after every one has been read once.

        The mark <split>.readable says that the files of this identity could all be decoded then; one that is
        damaged later ends the reading with its name.
        """

        def write(path: Path) -> Mapping[str, Any]:
            samples = self.source.open(split)

            def check(chunks: Iterator[range]) -> Readings:
                readings = Readings()
                for index in chain.from_iterable(chunks):
                    readings.read(index, samples[index][0], self.source.channels)
                return readings

            with progress(f"reading {self.source.name} {split} once", len(samples)) as advance:
                parts = run_workers(len(samples), workers, check, advance)
            path.write_text(f"{len(samples)} files can be read\n")
            return gathered(parts, len(samples))

        self._prepared(split, ".readable", write)
        return self.source.open(split)

    def _open(self, split: str) -> Sequence[Sample]:
        samples = self.source.open(split)
        if side := self.source.size:
            remedy = "free some space, or put the cache elsewhere: data.cache=/another/disk"
            require_space(self.folder, len(samples) * side**2 * self.source.channels, remedy)
        return samples

    def _prepared(self, split: str, suffix: str, write: Callable[[Path], Mapping[str, Any]]) -> Path:
        def write_and_describe(path: Path) -> dict[str, Any]:
            return {
                **write(path),
                "samples": len(self.source.open(split)),
                "identity": self.identity,
                **self.source.manifest(split),
            }

        path = cached(self.folder / f"{split}{suffix}", write_and_describe)
        self.described[split] = read_object(manifest_path(path))
        return path


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))
