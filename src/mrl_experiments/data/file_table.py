"""Which files a run was trained on, and what has become of them since."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from os.path import relpath
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrl_experiments.data.images.read_image import DIGEST_BYTES, digest_of
from mrl_experiments.data.reading import Tally
from mrl_experiments.errors import UserError

UNKNOWN = "0" * 2 * DIGEST_BYTES
CROSSED = "trained on, and in another split now"


@dataclass(frozen=True)
class File:
    """A file as a run noted it.

    Attributes:
        split: The one it belongs to.
        size: In bytes.
        time: Of its last change, in ns.
        digest: A hash of its content, or UNKNOWN.
    """

    split: str
    size: int
    time: int
    digest: str = UNKNOWN


Files = Mapping[str, File]  # by name below the root


def file_table(splits: Mapping[str, Sequence[Path]], root: Path, digests: Mapping[str, str]) -> Files:
    """Return the files of all splits by their names below `root`.

    Args:
        splits: The files of each split.
        digests: Those of each split's files joined, where they are known.
    """
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


def changes(before: Files, now: Files, root: Path) -> Tally:
    """Compare two tables; contents are read only of files whose times differ, and of new ones.

    Returns:
        Names of files that are new, gone, changed or in another split; those that the run was trained on and
        that are in another split are of the kind CROSSED.
    """

    def content(name: str) -> str:
        return digest_of((root / name).read_bytes())

    trained = {(f.size, f.digest) for f in before.values() if f.split == "train" and f.digest != UNKNOWN}
    sizes = {size for size, _ in trained}
    found = Tally()
    found.add("new", *sorted(now.keys() - before.keys()))
    found.add("gone", *sorted(before.keys() - now.keys()))
    for name, file in sorted(now.items()):
        old = before.get(name)
        same = old is not None and old.size == file.size
        if old is not None and same and old.time != file.time and old.digest != UNKNOWN:
            same = content(name) == old.digest
        if old is not None and same:
            from_train = old.split == "train"
            if not from_train and old.split != file.split:
                found.add("in another split now", name)
        else:
            from_train = file.size in sizes and (file.size, content(name)) in trained
            if old is not None:
                found.add("changed", name)
        if from_train and file.split != "train":
            found.add(CROSSED, name)
    return found


def are_same(what: str, before: Files, now: Files, root: Path, *, accept_changes: bool) -> bool:
    """Return whether the files are those of a run.

    Args:
        what: What they are called, such as "images of photos".
        before: The run's.
        now: Those that are there now, below `root`.
        accept_changes: Print changes instead; files that the run was trained on are never accepted in another
            split.

    Raises:
        UserError: If the files are others, and that is not accepted.
    """
    found = changes(before, now, root)
    if CROSSED in found.kinds or (found.total and not accept_changes):
        raise UserError(
            f"the {what} are not those that the run was trained on: {found.listed(3)}",
            expected="the same files; where they lie does not matter",
            remedy="restore them, or keep other data apart by a name of its own: data.name=<name>"
            + ("" if CROSSED in found.kinds else "; embed.py accept_changes=true embeds what is there now"),
        )
    if found.total:
        print(f"the {what} have changed since the run was trained: {found.listed(3)}", flush=True)
    return not found.total
