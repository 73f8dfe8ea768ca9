"""What sources of image files in folders have in common."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from mrl_experiments.data.given_root import given_root
from mrl_experiments.data.images.image_files import Files
from mrl_experiments.data.reading import Tally
from mrl_experiments.data.source import Sample


class FolderSource:
    """A `Source` of files of any size below `root`, listed once.

    Args:
        name: How tables call the data set.
        root: The folder below which files have their names, data.root.
        holding: What is in it, for the message where it is missing.

    Attributes:
        classes: Their names, by label.
        skipped: What lies in the folder and is not read.
        noted: What is read, though it lies where few would expect it.

    Raises:
        UserError: If `root` is not a folder.
    """

    channels = 3
    size: int | None = None

    splits: tuple[str, ...]
    classes: list[str]
    _files: dict[str, Files]

    def __init__(self, name: str, root: str | None, holding: str) -> None:
        remedy = f"give it: data={name} data.root=/path/to/images"
        self.name, self.root = name, given_root(root, f"a folder with {holding}", remedy)
        self.skipped, self.noted = Tally(), Tally()

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    def identity(self) -> dict[str, Any]:
        """Return a hash of names below `root`, labels, sizes and times of change of all files."""
        digest = hashlib.sha256()
        for split, files in self._files.items():
            for path, label in files:
                status, name = path.stat(), os.fsencode(os.path.relpath(path, self.root))
                line = f"{split} {label} {status.st_size} {status.st_mtime_ns} "
                digest.update(line.encode() + name + b"\0")
        return {"files": digest.hexdigest()}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        return self._files[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names, and what lies in the folder and is not read."""
        return {"classes": self.classes, "skipped": self.skipped.described()}

    def report(self) -> str:
        """Return one line: what is read and what is not."""
        counts = {split: len(files) for split, files in self._files.items()}
        classes = len({label for files in self._files.values() for _, label in files})
        parts = f" ({', '.join(f'{n:,} {split}' for split, n in counts.items())})" if len(counts) > 1 else ""
        noted = f"; {self.noted}" if self.noted.total else ""
        skipped = f"; skipped {self.skipped.total:,}: {self.skipped}" if self.skipped.total else ""
        return f"{self.name}: {sum(counts.values()):,} images in {classes:,} classes{parts}{noted}{skipped}"
