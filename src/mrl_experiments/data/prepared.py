"""Files computed once and kept: written whole or not at all, by one process at a time, checked before use."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    atomic_path,
    fingerprint,
    is_unchanged,
    read_object,
    remove_leftovers,
    write_json,
)
from mrl_experiments.locks import exclusive
from mrl_experiments.names import check_name

_read_only: list[Path] = []  # other caches, see reading_also


def usual_cache() -> str:
    """Return the folder of prepared files where no option names another."""
    return os.environ.get("MRL_DATA") or "~/.cache/mrl-experiments"


@contextmanager
def reading_also(folders: Sequence[Path]) -> Iterator[None]:
    """Within the block, what lies whole in one of these caches is read there; none of them is written to."""
    before = list(_read_only)
    _read_only[:] = folders
    try:
        yield
    finally:
        _read_only[:] = before


def read_only_caches() -> tuple[Path, ...]:
    """Return the caches that are read besides the one that is written to."""
    return tuple(_read_only)


def keyed_folder(root: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return <root>/<name>-<key>, where the key is a hash of all that determines what lies in it.

    So a changed option never meets an old file. Raises UserError for a name that leads elsewhere.
    """
    check_name(name, "the name of prepared data")
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return root.expanduser() / f"{name}-{key}"


def prepared(path: Path, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return `path`, written first where it is missing or no longer what its manifest describes.

    `write` fills the file it is given and returns JSON values worth keeping in the manifest beside it.
    What is whole is used without a lock, so a cache that may only be read serves as well.
    """
    if _is_whole(path):
        return path
    if (elsewhere := _elsewhere(path)) is not None:
        return elsewhere
    with exclusive(path.with_name(f".{path.stem}.lock"), f"writes {path.name}"):
        remove_leftovers(path.parent, path.stem)
        if not _is_whole(path):
            if path.exists() and manifest_path(path).exists():
                print(f"{path} has changed since it was written: it is written again", flush=True)
            with atomic_path(path) as temporary:
                described = write(temporary)
            write_json(manifest_path(path), {**fingerprint(path), **described})
    return path


def _elsewhere(path: Path) -> Path | None:
    """Return where a prepared file lies whole in another cache."""
    for folder in _read_only:
        other = folder / path.parent.name / path.name
        with suppress(UserError, OSError):  # what is no use there is written here
            if _is_whole(other):
                return other
    if _read_only:
        shown = ", ".join(map(str, _read_only))
        print(f"{shown} holds no whole {path.parent.name}/{path.name}: it is written to {path}", flush=True)
    return None


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a prepared file lies."""
    return path.with_name(path.name + ".json")


def _is_whole(path: Path) -> bool:
    manifest = manifest_path(path)
    return path.exists() and manifest.exists() and is_unchanged(path, read_object(manifest))
