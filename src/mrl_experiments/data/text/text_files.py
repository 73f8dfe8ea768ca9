"""Text in files, each file a document: which split holds it, and what cannot be read."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_experiments.errors import UserError


class TextFiles:
    """UTF-8 files of a data set, by split. Files in another encoding are named, skipped and counted.

    name: how the cache and tables call it. root: what paths are shown relative to.
    """

    splits: tuple[str, ...] = ("train", "val")

    def __init__(self, name: str, root: Path, files: Mapping[str, Sequence[Path]]) -> None:
        self.name, self.root = name, root
        self._files = files

    def identity(self) -> dict[str, Any]:
        """Return what determines the text: names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for split, path in self.paths():
            status = path.stat()
            digest.update(f"{split} {self.shown(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return {"root": str(self.root.resolve()), "files": digest.hexdigest()}

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Yield (split, file) for all files."""
        for split in self.splits:
            yield from ((split, path) for path in self._files[split])

    def shown(self, path: Path) -> str:
        """Return the name of a file below the root."""
        return path.relative_to(self.root).as_posix()

    def texts(self, split: str) -> Iterator[str]:
        """Yield the documents of a split in a fixed order. Raises UserError when none can be read."""
        count = 0
        for path in self._files[split]:
            if (text := _read(path)) is not None:
                count += 1
                yield text
        if not count:
            raise UserError(
                f"{self.root}: none of the {len(self._files[split])} files of {split} is UTF-8 text",
                remedy="convert them, for example with iconv, or choose others",
            )

    def skipped(self, split: str) -> list[str]:
        """Return the files of a split that are not UTF-8."""
        return [self.shown(path) for path in self._files[split] if _read(path) is None]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return JSON values worth keeping beside the split: the files, and those that were skipped."""
        skipped = self.skipped(split)
        names = [self.shown(path) for path in self._files[split]]
        return {"documents": [name for name in names if name not in set(skipped)], "skipped": skipped}


def held_out(sizes: Mapping[str, int], share: float, seed: int) -> set[str]:
    """Choose some of the groups named in `sizes` whose sizes add up to at most `share` of all.

    Groups are taken in the order of a hash of (seed, name) where they still fit, so that most keep their side
    when a group is added. Raises UserError when there is nothing to divide.
    """
    if not 0 < share < 1 or len(sizes) < 2:
        raise UserError(
            f"val_share={share} of {len(sizes)} texts leaves no train or no val split",
            expected="a share between 0 and 1, and at least two texts",
        )
    room = share * sum(sizes.values())
    chosen: set[str] = set()
    for name in sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
        if sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name))}


def _read(path: Path) -> str | None:
    """Return a file's text with its line ends as they are, or None where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
