"""Images in the order of a stream, such as a FLUID sequence: classes known from training and new ones."""

from pathlib import Path

import numpy as np

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.folder_source import FolderSource
from mrl_experiments.errors import UserError, said
from mrl_experiments.files import read_text


class ImageStream(FolderSource):
    """The files that `sequence` names, below `root`, as the split `stream`, in that order.

    A file's class is its name up to the first underscore (n01440764_10026.JPEG).

    Args:
        sequence: A .npy file of path names, as FLUID publishes them, or a text file with one per line.
        classes: The list that the model was trained on, see `class_list`; other classes get the labels after
            it.

    Raises:
        UserError: For a missing root, sequence or image.
    """

    splits: tuple[str, ...] = ("stream",)

    def __init__(self, name: str, root: str | None, sequence: str | None, classes: str | None) -> None:
        super().__init__(name, root, "the images of the stream")
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
        label_of = {name: label for label, name in enumerate(self.classes)}
        self._files = {"stream": [(path, label_of[name]) for path, name in zip(paths, names, strict=True)]}


def read_sequence(sequence: str | None) -> list[str]:
    """Return the path names in a .npy or text file.

    Raises:
        UserError: If there are none.
    """
    path = Path(sequence or "").expanduser()
    expected = "a .npy file of path names, or a text file with one per line"
    if not path.is_file():
        raise UserError(
            f"data.source.sequence={sequence} is not a file",
            expected=expected,
            remedy="give it: data.source.sequence=/path/to/sequence5.npy",
        )
    if path.suffix != ".npy":
        lines = [line.strip() for line in read_text(path).splitlines()]
        if not any(lines):
            raise UserError(f"{path} names no image", expected=expected)
        return [line for line in lines if line]
    try:
        names = np.load(path, allow_pickle=False)
        if names.ndim != 1 or names.dtype.kind != "U":
            raise ValueError(f"it holds {names.dtype} of shape {names.shape}")
        return [str(name) for name in names]
    except Exception as error:  # a damaged file makes numpy raise nearly anything
        raise UserError(f"{path} cannot be read: {said(error)}", expected=expected) from error
