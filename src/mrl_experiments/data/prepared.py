"""Files computed once and kept: written whole or not at all, by one process at a time, checked before use."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mrl_experiments.files import (
    atomic_path,
    fingerprint,
    is_unchanged,
    read_object,
    remove_leftovers,
    write_json,
)
from mrl_experiments.locks import exclusive


def keyed_folder(root: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return <root>/<name>-<key>, where the key is a hash of all that determines what lies in it.

    So a changed option never meets an old file.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    return root.expanduser() / f"{name}-{key}"


def prepared(path: Path, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return `path`, written first where it is missing or no longer what its manifest describes.

    `write` fills the file it is given and returns JSON values worth keeping in the manifest beside it.
    What is whole is used without a lock, so a cache that may only be read serves as well.
    """
    if _is_whole(path):
        return path
    with exclusive(path.with_name(f".{path.stem}.lock"), f"writes {path.name}"):
        remove_leftovers(path.parent, path.stem)
        if not _is_whole(path):
            if path.exists() and manifest_path(path).exists():
                print(f"{path} has changed since it was written: it is written again", flush=True)
            with atomic_path(path) as temporary:
                described = write(temporary)
            write_json(manifest_path(path), {**fingerprint(path), **described})
    return path


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a prepared file lies."""
    return path.with_name(path.name + ".json")


def _is_whole(path: Path) -> bool:
    manifest = manifest_path(path)
    return path.exists() and manifest.exists() and is_unchanged(path, read_object(manifest))
