"""An AdaptiveIndex on disk: the vectors are memory-mapped back, a damaged or foreign folder is refused."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from mrl_experiments.adaptive.retrieval.disk import DiskIndex
from mrl_experiments.adaptive.retrieval.disk_files import is_on_disk
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.promise import Promise
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    atomic_path,
    explain_os_errors,
    fingerprint,
    read_object,
    reading,
    require_unchanged,
    write_json,
)

SPEC, VECTORS, IDS, NORMS = "index.json", "vectors.npy", "ids.npy", "norms.npz"
PROMISED, DELETED = "promised.npz", "deleted.npz"  # of indexes that have them
VERSION = 1
REMEDY = "build and save the index again"


def save_index(index: AdaptiveIndex, folder: Path) -> None:
    """Write an index; the description, with each file's checksum, comes last and makes the folder complete.

    Raises:
        UserError: For what the operating system refuses, such as a full disk.
    """
    if isinstance(index, DiskIndex):
        raise UserError(
            "an index on disk is not saved: its folder is it",
            remedy="index.save() keeps what `configure` has set; copy the folder for a second one",
        )
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).unlink(missing_ok=True)
    for name, array in ((VECTORS, index.vectors), (IDS, index.ids)):
        with atomic_path(folder / name) as path, path.open("wb") as file:
            np.save(file, array)
    described: dict[str, Any] = {"version": VERSION, "spec": asdict(index.spec)}
    archives: dict[str, dict[str, Any]] = {NORMS: {str(dim): norms for dim, norms in index.norms.items()}}
    if index.promise is not None:
        described["promise"], archives[PROMISED] = index.promise.stored()
    if index.deleted is not None:
        archives[DELETED] = {"deleted": index.deleted}
    for name, arrays in archives.items():
        with atomic_path(folder / name) as path, path.open("wb") as file:
            np.savez(file, **arrays)
    for dim, shortlist in index.shortlists.items():
        with atomic_path(folder / _shortlist(dim)) as path:
            faiss.write_index(shortlist, str(path))
    names = [VECTORS, IDS, *archives, *map(_shortlist, index.shortlists)]
    write_json(folder / SPEC, {**described, "files": {name: fingerprint(folder / name) for name in names}})


def load_index(folder: Path) -> AdaptiveIndex:
    """Open a saved index, or one on disk; its vectors are a read-only memory map.

    Raises:
        UserError: If the folder is incomplete, a file has changed, or another version wrote it.
    """
    if not (folder / SPEC).exists():
        raise UserError(f"{folder} holds no complete index", remedy=REMEDY)
    if is_on_disk(folder):
        return DiskIndex.open(folder)
    described = read_object(folder / SPEC, REMEDY, version=VERSION)
    with reading(folder, "", REMEDY):
        spec, noted = IndexSpec(**described["spec"]), _noted(described)
        for name in (VECTORS, IDS, NORMS, *map(_shortlist, spec.dims)):
            require_unchanged(folder / name, noted[name], REMEDY)
        shortlists = {dim: faiss.read_index(str(folder / _shortlist(dim))) for dim in spec.dims}
        with np.load(folder / NORMS) as stored:
            norms = {int(dim): stored[dim] for dim in stored.files}
        vectors = np.load(folder / VECTORS, mmap_mode="r")
        index = AdaptiveIndex(spec, vectors, np.load(folder / IDS), shortlists, norms)
        for name in (PROMISED, DELETED):
            if name in noted:
                require_unchanged(folder / name, noted[name], REMEDY)
        if DELETED in noted:
            with np.load(folder / DELETED) as stored:
                index.deleted = stored["deleted"]
        if "promise" in described:
            with np.load(folder / PROMISED) as stored:
                index.promise = Promise.of(described["promise"], stored)
        index.configure(spec.effort, spec.stages)
    return index


def _noted(described: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each file: the size only, if the index is older than checksums."""
    if "files" in described:
        return dict(described["files"])
    return {name: {"bytes": size} for name, size in described["bytes"].items()}


def _shortlist(dim: int) -> str:
    return f"shortlist-{dim}.faiss"
