"""Which files a run was trained on, and what has become of them since."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from os.path import relpath
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrl_experiments.data.images.read_image import DIGEST_BYTES, digest_of
from mrl_experiments.data.tally import shown
from mrl_experiments.errors import UserError

UNKNOWN = "0" * 2 * DIGEST_BYTES


@dataclass(frozen=True)
class File:
    """split: the one it belongs to. size: bytes. time: of its last change, ns. digest: UNKNOWN, or a hash."""

    split: str
    size: int
    time: int
    digest: str = UNKNOWN


Files = Mapping[str, File]  # by name below the root


def file_table(splits: Mapping[str, Sequence[Path]], root: Path, digests: Mapping[str, str]) -> Files:
    """Return the files of all splits. digests: those of each split's files joined, where they are known."""
    table = {}
    for split, paths in splits.items():
        joined = digests.get(split) or UNKNOWN * len(paths)
        for number, path in enumerate(paths):
            status = path.stat()
            digest = joined[number * len(UNKNOWN) : (number + 1) * len(UNKNOWN)]
            table[relpath(path, root)] = File(split, status.st_size, status.st_mtime_ns, digest)
    return table


def with_digests(files: Files, root: Path) -> Files:
    """Return the table with the digests of all files; those that are not known are read."""
    return {
        name: replace(file, digest=digest_of((root / name).read_bytes())) if file.digest == UNKNOWN else file
        for name, file in files.items()
    }


def pack(files: Files) -> Tensor:
    """Return the table as compressed bytes, which a checkpoint can hold."""
    rows = [[name, file.split, file.size, file.time, file.digest] for name, file in files.items()]
    return torch.from_numpy(np.frombuffer(zlib.compress(json.dumps(rows).encode()), np.uint8).copy())


def unpack(packed: Tensor) -> Files:
    """Return what `pack` was given."""
    rows = json.loads(zlib.decompress(packed.numpy().tobytes()))
    return {name: File(*rest) for name, *rest in rows}


def table_digest(files: Files) -> str:
    """Return a hash of names, splits, sizes and contents, whenever and wherever they were written."""
    rows = sorted((name, file.split, file.size, file.digest) for name, file in files.items())
    return blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


@dataclass
class Changes:
    """Names of files that are new, gone, changed or in another split, and of training images there."""

    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        words = {"moved": "in another split now", "crossed": "trained on, and in another split now"}
        found = {words.get(kind, kind): names for kind, names in vars(self).items() if names}
        return ", ".join(
            f"{len(names):,} {kind} ({', '.join(map(shown, names[:3]))}{', ...' * (len(names) > 3)})"
            for kind, names in found.items()
        )


def changes(before: Files, now: Files, root: Path) -> Changes:
    """Compare two tables; contents are read only of files whose times differ, and of new ones."""

    def content(name: str) -> str:
        return digest_of((root / name).read_bytes())

    found = Changes(new=sorted(now.keys() - before.keys()), gone=sorted(before.keys() - now.keys()))
    trained = {(f.size, f.digest) for f in before.values() if f.split == "train" and f.digest != UNKNOWN}
    sizes = {size for size, _ in trained}
    for name, file in sorted(now.items()):
        old = before.get(name)
        same = old is not None and old.size == file.size
        if old is not None and same and old.time != file.time and old.digest != UNKNOWN:
            same = content(name) == old.digest
        if old is not None and not same:
            found.changed.append(name)
        if old is not None and same and old.split not in ("train", file.split):
            found.moved.append(name)
        if file.split == "train":
            continue
        if old is not None and same:
            crossed = old.split == "train"
        else:
            crossed = file.size in sizes and (file.size, content(name)) in trained
        if crossed:
            found.crossed.append(name)
    return found


def are_same(what: str, before: Files, now: Files, root: Path, *, accept_changes: bool) -> bool:
    """Return whether the files are those of a run. what: what they are called, such as "images of photos".

    Raises UserError when they are not, unless changes are accepted, which is printed then; files that the run
    was trained on are never accepted in another split.
    """
    found = changes(before, now, root)
    if found.crossed or (found and not accept_changes):
        raise UserError(
            f"the {what} are not those that the run was trained on: {found}",
            expected="the same files; where they lie does not matter",
            remedy="restore them, or keep other data apart by a name of its own: data.name=<name>"
            + ("" if found.crossed else "; embed.py accept_changes=true embeds what is there now"),
        )
    if found:
        print(f"the {what} have changed since the run was trained: {found}", flush=True)
    return not found


def newest_change(paths: Sequence[Path], root: Path) -> int:
    """Return when, in ns, the last of some files or of the folders that hold them was changed."""
    folders = {
        folder for path in paths for folder in path.parents if folder == root or root in folder.parents
    }
    return max(path.stat().st_mtime_ns for path in [*paths, *folders])
