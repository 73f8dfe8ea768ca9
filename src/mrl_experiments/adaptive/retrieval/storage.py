"""An AdaptiveIndex on disk: the vectors are memory-mapped back, a damaged or foreign folder is refused."""

from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, read_json, write_json

SPEC, VECTORS, IDS, NORMS = "index.json", "vectors.npy", "ids.npy", "norms.npz"
VERSION = 1


def save_index(index: AdaptiveIndex, folder: Path) -> None:
    """Write an index; the description, with each file's size, comes last and makes the folder complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).unlink(missing_ok=True)
    for name, array in ((VECTORS, index.vectors), (IDS, index.ids)):
        with atomic_path(folder / name) as path, path.open("wb") as file:
            np.save(file, array)
    with atomic_path(folder / NORMS) as path, path.open("wb") as file:
        np.savez(file, **{str(dim): norms for dim, norms in index.norms.items()})  # type: ignore[arg-type]
    for dim, shortlist in index.shortlists.items():
        with atomic_path(folder / _shortlist(dim)) as path:
            faiss.write_index(shortlist, str(path))
    names = [VECTORS, IDS, NORMS, *map(_shortlist, index.shortlists)]
    sizes = {name: (folder / name).stat().st_size for name in names}
    write_json(folder / SPEC, {"version": VERSION, "spec": asdict(index.spec), "bytes": sizes})


def load_index(folder: Path) -> AdaptiveIndex:
    """Open a saved index; its vectors are a read-only memory map.

    Raises UserError when the folder is incomplete, a file is truncated, or another version wrote it.
    """
    remedy = "build and save the index again"
    if not (folder / SPEC).exists():
        raise UserError(f"{folder} holds no complete index", remedy=remedy)
    described = read_json(folder / SPEC)
    if described.get("version") != VERSION:
        raise UserError(
            f"{folder} is an index of version {described.get('version')}",
            expected=f"version {VERSION}",
            remedy=remedy,
        )
    for name, size in described["bytes"].items():
        found = (folder / name).stat().st_size if (folder / name).exists() else 0
        if found != size:
            raise UserError(f"{folder / name} has {found} bytes", expected=f"{size} bytes", remedy=remedy)
    spec = IndexSpec(**described["spec"])
    try:
        shortlists = {dim: faiss.read_index(str(folder / _shortlist(dim))) for dim in spec.dims}
    except RuntimeError as error:
        raise UserError(f"{folder}: FAISS cannot read its shortlist index", remedy=remedy) from error
    with np.load(folder / NORMS) as stored:
        norms = {int(dim): stored[dim] for dim in stored.files}
    vectors = np.load(folder / VECTORS, mmap_mode="r")
    index = AdaptiveIndex(spec, vectors, np.load(folder / IDS), shortlists, norms)
    index.configure(spec.effort, spec.stages)
    return index


def _shortlist(dim: int) -> str:
    return f"shortlist-{dim}.faiss"
