"""Neighbours kept beside the embeddings of the queries, so that metrics are recomputed in seconds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_experiments.embeddings import Embeddings, shared_width
from mrl_experiments.evaluations.neighbours import Neighbours, nearest
from mrl_experiments.files import atomic_path


def neighbours(
    queries: Embeddings, database: Embeddings, dims: Sequence[int], k: int
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each size, from disk where an earlier search kept as many.

    Embeddings without a folder keep nothing. Raises UserError when k exceeds N.
    """
    shared_width([queries, database])
    paths = {dim: _path(queries, database, dim) for dim in dims}
    kept = {dim: _read(path, k) for dim, path in paths.items()}
    missing = [dim for dim in dims if kept[dim] is None]
    new = nearest(queries.features, database.features, missing, k) if missing else {}
    for dim, found in new.items():
        _write(paths[dim], found)
    return {dim: found for dim, found in {**kept, **new}.items() if found is not None}


def _path(queries: Embeddings, database: Embeddings, dim: int) -> Path | None:
    if queries.folder is None or database.folder is None:
        return None
    return queries.folder / "neighbours" / f"{queries.identity}-{database.identity}-{dim}.npz"


def _read(path: Path | None, k: int) -> Neighbours | None:
    if path is None or not path.exists():
        return None
    with np.load(path) as stored:
        similarities, positions = stored["similarities"], stored["positions"]
    return Neighbours(similarities[:, :k], positions[:, :k]) if positions.shape[1] >= k else None


def _write(path: Path | None, found: Neighbours) -> None:
    if path is not None:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, similarities=found.similarities, positions=found.positions)
