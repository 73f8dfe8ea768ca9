"""Images in the order of a stream, such as a FLUID sequence: classes known from training and new ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.image_files import existing_root, files_digest
from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError


class ImageStream:
    """The files that `sequence` names, below `root`, as the split `stream`, in that order.

    sequence: a .npy file of path names, as FLUID publishes them, or a text file with one a line. A file's
    class is its name up to the first underscore (n01440764_10026.JPEG). classes: the list that the model was
    trained on, see `class_list`; classes that are not in it get the labels after it.
    Raises UserError for a missing root, sequence or image.
    """

    channels = 3
    size: int | None = None
    splits: tuple[str, ...] = ("stream",)

    def __init__(self, name: str, root: str | None, sequence: str | None, classes: str | None) -> None:
        self.name = name
        self.root = existing_root(name, root, "the images of the stream")
        paths = [self.root / entry for entry in read_sequence(sequence)]
        lost = [path for path in paths if not path.is_file()]
        if lost:
            raise UserError(
                f"{len(lost)} of {len(paths)} images of {sequence} are missing, such as {lost[0]}",
                expected=f"the files that the sequence names, below {self.root}",
            )
        names = [path.name.partition("_")[0] for path in paths]
        known = class_list(classes, names)
        self.classes = [*known, *sorted(set(names) - set(known))]
        self.num_classes = len(self.classes)
        label_of = {name: label for label, name in enumerate(self.classes)}
        self._files = [(path, label_of[name]) for path, name in zip(paths, names, strict=True)]

    def identity(self) -> dict[str, Any]:
        """Return what determines images and labels."""
        return {"files": files_digest({"stream": self._files}, self.root)}

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples in the order of the stream."""
        return self._files

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names: those known from training, then the new ones."""
        return {"classes": self.classes}


def read_sequence(sequence: str | None) -> list[str]:
    """Return the path names in a .npy or text file. Raises UserError when there are none."""
    path = Path(sequence or "").expanduser()
    expected = "a .npy file of path names, or a text file with one a line"
    if not path.is_file():
        raise UserError(
            f"data.source.sequence={sequence} is not a file",
            expected=expected,
            remedy="give it: data.source.sequence=/path/to/sequence5.npy",
        )
    if path.suffix != ".npy":
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if not any(lines):
            raise UserError(f"{path} names no image", expected=expected)
        return [line for line in lines if line]
    try:
        names = np.load(path, allow_pickle=False)
        if names.ndim != 1 or names.dtype.kind != "U":
            raise ValueError(f"it holds {names.dtype} of shape {names.shape}")
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}", expected=expected) from error
    return [str(name) for name in names]
