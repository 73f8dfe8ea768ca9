"""Test images of some classes of a larger list, such as those that probe ImageNet models under shift."""

from collections.abc import Sequence
from typing import Any

from mrl_experiments.data.images.class_list import class_list, folder_labels
from mrl_experiments.data.images.image_files import (
    class_folders,
    existing_root,
    files_digest,
    image_files,
    reading_report,
)
from mrl_experiments.data.source import Sample
from mrl_experiments.data.tally import Tally


class QueryFolders:
    """<root>/<folder>/* as the only `split`, labelled by the whole list of classes a model was trained on.

    classes: that list, see `class_list`. mapping: None where folders are named like classes or numbered, or a
    file, see `folder_labels`. So num_classes is that of the classifiers, whichever of them the images show.
    Raises UserError for a missing root, list or mapping, and for folders that are no class.
    """

    channels = 3
    size: int | None = None

    def __init__(
        self, name: str, root: str | None, split: str, classes: str | None, mapping: str | None
    ) -> None:
        self.name, self.splits = name, (split,)
        self.root = existing_root(name, root, "one folder of images a class")
        self.skipped = Tally()
        folders = class_folders(self.root, self.skipped)
        self.classes = class_list(classes, folders)
        self.num_classes = len(self.classes)
        labels = folder_labels(folders or ["none"], self.classes, mapping)
        self._files = image_files(self.root, labels, self.skipped)

    def identity(self) -> dict[str, Any]:
        """Return what determines images and labels."""
        return {"files": files_digest({self.splits[0]: self._files}, self.root)}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples, folder by folder."""
        return self._files

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the names of all classes, also of those that no image shows."""
        return {"classes": self.classes, "skipped": self.skipped.described()}

    def report(self) -> str:
        """Return one line: what is read and what is not."""
        shown = len({label for _, label in self._files})
        return reading_report(self.name, {self.splits[0]: self._files}, shown, self.skipped)
