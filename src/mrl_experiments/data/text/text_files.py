"""Text in files, each file a document: which split holds it, and what cannot be read."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_experiments.data.file_table import UNKNOWN
from mrl_experiments.data.images.read_image import digest_of
from mrl_experiments.data.reading import Reading, shown
from mrl_experiments.errors import UserError

MARK = "\ufeff"  # at a file's beginning: what some editors write there, not text


class TextFiles:
    """UTF-8 files of a data set, by split. Files in another encoding are named, skipped and counted.

    Args:
        name: How the cache and tables call it.
        root: The folder below which files have their names.
        files: The files of each split.
    """

    splits: tuple[str, ...] = ("train", "val")

    def __init__(self, name: str, root: Path, files: Mapping[str, Sequence[Path]]) -> None:
        self.name, self.root = name, root
        self.files = files
        self.reading = Reading()  # what was left out while looking for files

    def identity(self) -> dict[str, Any]:
        """Return what determines the text: names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for split, path in self.paths():
            status = path.stat()
            name = path.relative_to(self.root).as_posix()
            digest.update(os.fsencode(f"{split} {name} {status.st_size} {status.st_mtime_ns}\n"))
        return {"root": shown(self.root.resolve()), "files": digest.hexdigest()}

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Return (split, file) for all files."""
        return ((split, path) for split, paths in self.files.items() for path in paths)

    def shown(self, path: Path) -> str:
        """Return the name of a file below the root, as it can be printed."""
        return shown(path.relative_to(self.root).as_posix())

    def texts(self, split: str, reading: Reading | None = None) -> Iterator[str]:
        """Yield the documents of a split in a fixed order, and note in `reading` what could not be read.

        Raises:
            UserError: If none can be read.
        """
        noted = reading or Reading()
        for path in self.files[split]:
            text, problem, digest = _read(path)
            noted.digests.append(digest)
            if text is None:
                noted.skipped.add(problem, self.shown(path))
                noted.unread.append(self.shown(path))
                continue
            if problem:
                noted.converted.add(problem, self.shown(path))
            noted.read += 1
            yield self.part(split, text)
        if not noted.read:
            raise UserError(
                f"{self.root}: none of the {len(self.files[split])} files of {split} is UTF-8 text; "
                + "; ".join(noted.lines()),
                remedy="convert them, for example with iconv, or choose others",
            )

    def part(self, split: str, text: str) -> str:
        """Return what of a file's text belongs to a split: all of it."""
        return text

    def manifest(self, split: str) -> dict[str, Any]:
        """Return JSON values worth keeping beside the split: its files."""
        return {"documents": [self.shown(path) for path in self.files[split]]}


def held_out(sizes: Mapping[str, int], share: float, seed: int) -> set[str]:
    """Choose some of the groups named in `sizes` whose sizes add up to at most `share` of all.

    Groups are taken in the order of a hash of (seed, name) where they still fit, so that most keep their side
    when a group is added.

    Raises:
        UserError: If there is nothing to divide.
    """
    if not 0 < share < 1 or len(sizes) < 2:
        raise UserError(
            f"val_share={share} of {len(sizes)} texts leaves no train or no val split",
            expected="a share between 0 and 1, and at least two texts",
        )
    room = share * sum(sizes.values())
    chosen: set[str] = set()
    for name in sorted(sizes, key=lambda name: hashlib.sha256(os.fsencode(f"{seed} {name}")).digest()):
        if sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name))}


def _read(path: Path) -> tuple[str | None, str, str]:
    """Return a file's text with its line ends as they are, or None; what was dropped, or why; its digest."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, f"files that cannot be read ({error.strerror})", UNKNOWN
    digest = digest_of(content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None, "files that are not UTF-8", digest
    if "\0" in text:
        return None, "files that are not text (they hold NUL bytes)", digest
    marked = "files with a byte-order mark, left out" if text.startswith(MARK) else ""
    return text.removeprefix(MARK), marked, digest
