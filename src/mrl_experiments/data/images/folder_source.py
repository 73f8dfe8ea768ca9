"""What sources of image files in folders have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_experiments.data.images.image_files import Files, files_digest, reading_report
from mrl_experiments.data.source import Sample
from mrl_experiments.data.tally import Tally


class FolderSource:
    """A `Source` of files of any size below `root`, listed once.

    Attributes:
        root: The folder below which files have their names.
        classes: Their names, by label.
        skipped: What lies in the folder and is not read.
        noted: What is read, though it lies where few would expect it.
    """

    channels = 3
    size: int | None = None

    name: str
    splits: tuple[str, ...]
    root: Path
    classes: list[str]
    _files: dict[str, Files]

    def __init__(self) -> None:
        self.skipped, self.noted = Tally(), Tally()

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    def identity(self) -> dict[str, Any]:
        """Return what determines images and labels: names, sizes and times of change of all files."""
        return {"files": files_digest(self._files, self.root)}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split."""
        return self._files[split]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names, and what lies in the folder and is not read."""
        return {"classes": self.classes, "skipped": self.skipped.described()}

    def report(self) -> str:
        """Return one line: what is read and what is not."""
        shown = len({label for files in self._files.values() for _, label in files})
        return reading_report(self.name, self._files, shown, self.skipped, self.noted)
