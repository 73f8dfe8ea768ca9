"""Classes that no training has seen, as a database and queries to search it: ImageNet-4K."""

from collections.abc import Sequence

import numpy as np

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.folder_source import FolderSource
from mrl_experiments.data.images.image_files import Files, class_folders, image_files
from mrl_experiments.errors import UserError


class UnseenFolders(FolderSource):
    """<root>/database/<class>/* and <root>/query/<class>/*, or both drawn from <root>/<class>/*.

    Args:
        classes: None for all folders, or the list to take, see `class_list`.
        per_class: How many images of each class are drawn for each split, by `seed`.

    Raises:
        UserError: For a missing root, list or folder, and for classes with fewer images.
    """

    splits: tuple[str, ...] = ("database", "query")

    def __init__(
        self, name: str, root: str | None, classes: str | None, per_class: dict[str, int], seed: int
    ) -> None:
        super().__init__(name, root, "database/<class>/ and query/<class>/, or <class>/ folders")
        divided = all((self.root / split).is_dir() for split in self.splits)
        home = self.root / "database" if divided else self.root
        folders = class_folders(home, self.skipped)
        self.classes = folders if classes is None else class_list(classes, folders)
        labels = {name: label for label, name in enumerate(self.classes)}
        if divided:
            self._files = {
                split: image_files(self.root / split, labels, self.skipped) for split in self.splits
            }
        else:
            counts = [per_class[split] for split in self.splits]
            files = image_files(home, labels, self.skipped)
            self._files = dict(zip(self.splits, _drawn(files, self.classes, counts, seed), strict=True))


def _drawn(files: Files, classes: Sequence[str], counts: Sequence[int], seed: int) -> list[Files]:
    """Draw counts[i] images of each class for the i-th split; no image is in two."""
    labels = np.array([label for _, label in files])
    available = np.bincount(labels, minlength=len(classes))
    short = np.flatnonzero(available < sum(counts))
    if len(short):
        raise UserError(
            f"{len(short)} of {len(classes)} classes have fewer than {sum(counts)} images, such as "
            f"{classes[short[0]]} with {available[short[0]]}",
            expected=f"{counts[0]} of each class for the database and {counts[1]} for queries",
            remedy="leave them out of data.source.classes, or lower data.source.per_class",
        )
    order = np.lexsort((np.random.default_rng(seed).random(len(files)), labels))
    first = np.cumsum(available) - available
    rows = [
        order[first[:, None] + np.arange(sum(counts))][:, start:stop].ravel()
        for start, stop in ((0, counts[0]), (counts[0], sum(counts)))
    ]
    return [[files[row] for row in part] for part in rows]
