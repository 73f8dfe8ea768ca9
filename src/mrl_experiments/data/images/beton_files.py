"""A source of which only ready .beton files exist, such as ImageNet written on another machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError


class BetonFiles:
    """Splits named after the given files; the images themselves are only reachable through FFCV.

    Args:
        classes: Their list, see `class_list`.
        betons: {split: file}.

    Raises:
        UserError: If `train` or `val` is missing.
    """

    channels = 3
    size: int | None = None

    def __init__(self, name: str, classes: str | None, betons: Mapping[str, str]) -> None:
        self.name, self.splits = name, tuple(betons)
        self.classes = class_list(classes)
        self.num_classes = len(self.classes)
        if missing := {"train", "val"} - set(betons):
            raise UserError(f"data.betons lacks {sorted(missing)}", expected="{train: file, val: file}")

    def identity(self) -> dict[str, Any]:
        """Return nothing to key a cache with: the files are used where they lie."""
        return {"name": self.name}

    def open(self, split: str) -> Sequence[Sample]:
        """Raise UserError: the torch loader needs the images."""
        raise UserError(
            f"{self.name} {split} is a .beton file", remedy="use data.loader=ffcv, or give data.root instead"
        )

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the class names."""
        return {"classes": self.classes}
