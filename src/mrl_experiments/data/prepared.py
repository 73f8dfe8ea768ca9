"""Files computed once and kept: written whole or not at all, by one process at a time, checked before use."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, read_json, sha256, write_json

VERIFIED_BYTES = 1 << 30  # files up to this size are checked against their checksum before use


def keyed_folder(root: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return <root>/<name>-<key>, where the key is a hash of all that determines what lies in it.

    So a changed option never meets an old file.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return root.expanduser() / f"{name}-{key}"


def prepared(path: Path, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return `path`, written first where it is missing.

    `write` fills the file it is given and returns JSON values worth keeping in the manifest beside it.
    Raises UserError when the file is no longer the one that its manifest describes.
    """
    with exclusive(path.with_name(f".{path.stem}.lock")):
        if not _is_whole(path):
            with atomic_path(path) as temporary:
                described = write(temporary)
            size = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            write_json(manifest_path(path), {**size, **described})
    return path


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a prepared file lies."""
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


def _is_whole(path: Path) -> bool:
    if not (path.exists() and manifest_path(path).exists()):
        return False
    manifest, size = read_json(manifest_path(path)), path.stat().st_size
    if size == manifest["bytes"] and (size > VERIFIED_BYTES or sha256(path) == manifest["sha256"]):
        return True
    raise UserError(
        f"{path} has changed since it was written ({size} bytes, {manifest['bytes']} then)",
        expected="the file that its manifest describes",
        remedy=f"delete {path.parent} and repeat; it is written again",
    )
