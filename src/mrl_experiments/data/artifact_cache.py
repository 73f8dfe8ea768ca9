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
from mrl_experiments.locks import acquire
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


def cache_folder(cache: str | Path | None) -> Path:
    """Return the folder of prepared files that `data.cache` or MRL_DATA names; empty means the usual one.

    Raises:
        UserError: If it begins with ~ and this account has no home.
    """
    try:
        return Path(cache or usual_cache()).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{cache or usual_cache()} cannot be found: {error}",
            expected="a home folder, which HOME names",
            remedy="name a folder for prepared data: MRL_DATA=/some/folder, or data.cache=/some/folder",
        ) from error


def keyed_folder(root: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return <root>/<name>-<key>, where the key is a hash of all that determines what lies in it.

    So a changed option never meets an old file.

    Raises:
        UserError: For a name that leads elsewhere.
    """
    check_name(name, "the name of prepared data")
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return cache_folder(root) / f"{name}-{key}"


def cached(path: Path, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return `path`, written first where it is not what the manifest describes.

    What is whole is used without a lock: a cache that may only be read serves too.

    Args:
        write: Fills the file it is given, and returns JSON values for the manifest.
    """
    if _is_whole(path):
        return path
    if (elsewhere := _elsewhere(path)) is not None:
        return elsewhere
    with acquire(path.with_name(f".{path.stem}.lock"), f"writes {path}"):
        remove_leftovers(path.parent, path.stem)
        if not _is_whole(path):
            if manifest_path(path).exists():
                print(f"{path} has changed since it was written: it is written again", flush=True)
            with atomic_path(path) as temporary:
                described = write(temporary)
            # Last: after a kill in between, the manifest disagrees, and all is written again.
            write_json(manifest_path(path), {**fingerprint(path), **described, "place": _place(path)})
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


def _place(path: Path) -> str:
    """Return what names a prepared file in any cache: its keyed folder, and its own name there."""
    return f"{path.parent.name}/{path.name}"


def _is_whole(path: Path) -> bool:
    manifest = manifest_path(path)
    if not (path.exists() and manifest.exists()):
        return False
    try:
        noted = read_object(manifest)
    except UserError as error:
        print(error.problem, flush=True)
        return False
    if not noted.get("sha256") or noted.get("place", _place(path)) != _place(path):
        return False  # it is another file's, or was exchanged with one together with its manifest
    return is_unchanged(path, noted)
