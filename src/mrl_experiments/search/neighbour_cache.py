"""Neighbours stored beside the embeddings of the queries, so that metrics are recomputed in seconds.

Only a search that takes longer is stored, and no more than twice the bytes of the queries' features: what was
used least recently goes first.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mrl_experiments.embeddings import Embeddings, shared_width
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, require_regular
from mrl_experiments.search.neighbours import Neighbours, nearest
from mrl_experiments.search.shards import processes

WORTH = 10**10  # multiply-adds of a search that is stored; a core does as many in a second
SHARE, LEAST = 2, 64 << 20  # of the bytes of the features, and bytes: the larger may be stored beside them


def neighbours(
    queries: Embeddings, database: Embeddings, dims: Sequence[int], k: int, similarity: str = "cosine"
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each dim, from disk where an earlier search kept as many.

    Embeddings without a folder keep nothing.

    Raises:
        UserError: If k exceeds N.
    """
    shared_width([queries, database])
    names = {dim: _name(queries, database, dim, similarity) for dim in dims}
    # Of several processes one might find what another has just written, and not take part in the search.
    read = processes()[1] == 1
    kept = {dim: _read(queries, database, names[dim], k) if read else None for dim in dims}
    missing = [dim for dim in dims if kept[dim] is None]
    new = nearest(queries.features, database.features, missing, k, similarity=similarity) if missing else {}
    worth = new and len(queries) * len(database) * max(missing) >= WORTH
    if worth and not processes()[0] and _path(queries, database, "") is not None:
        for dim, found in new.items():
            _write(queries, database, names[dim], found)
        _keep_budget(queries)
    return {dim: found for dim, found in {**kept, **new}.items() if found is not None}


def _path(queries: Embeddings, database: Embeddings, name: str) -> Path | None:
    if queries.folder is None or database.folder is None:
        return None
    folder = queries.folder / "neighbours"
    return None if folder.is_symlink() else folder / f"{name}.npz"


def _name(queries: Embeddings, database: Embeddings, dim: int, similarity: str = "cosine") -> str:
    """Return what a file of neighbours is called, and says inside: another file in its place is noticed."""
    end = "" if similarity == "cosine" else f"-{similarity}"
    return f"{queries.identity}-{database.identity}-{dim}{end}"


def _read(queries: Embeddings, database: Embeddings, name: str, k: int) -> Neighbours | None:
    """Return what an earlier search kept; None where it is too little, damaged, or of something else."""
    path = _path(queries, database, name)
    if path is None or not path.exists():
        return None
    try:
        require_regular(path)
        with np.load(path) as stored:
            inside, similarities, positions = (stored[key] for key in ("name", "similarities", "positions"))
        if str(inside) != name or similarities.shape != positions.shape:
            raise ValueError("it belongs to other embeddings")
        if len(positions) != len(queries) or not ((positions >= 0) & (positions < len(database))).all():
            raise ValueError("it does not fit these embeddings")
    except Exception as error:  # a damaged archive makes its readers raise nearly anything
        print(f"{path} cannot be used ({error}): neighbours are searched again", flush=True)
        return None
    if positions.shape[1] < k:
        return None
    with suppress(OSError):
        path.touch()
    return Neighbours(similarities[:, :k], positions[:, :k].astype(np.int64))


def _write(queries: Embeddings, database: Embeddings, name: str, found: Neighbours) -> None:
    """Keep neighbours where that is possible: they only save time."""
    path = _path(queries, database, name)
    assert path is not None
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            positions = found.positions.astype(np.min_scalar_type(len(database)))
            np.savez(file, name=np.array(name), similarities=found.similarities, positions=positions)
    except UserError as error:
        print(f"neighbours are not kept: {error.problem}", flush=True)


def _keep_budget(queries: Embeddings) -> None:
    """Remove the neighbours that were used least recently, until the others are within the budget."""
    assert queries.folder is not None
    left = max(LEAST, SHARE * queries.features.nbytes)
    with suppress(OSError):  # another process removes them, too
        files = [(file, file.stat()) for file in (queries.folder / "neighbours").glob("*.npz")]
        for file, status in sorted(files, key=lambda pair: pair[1].st_mtime_ns, reverse=True):
            left -= status.st_size
            if left < 0:
                file.unlink()
