"""Which split a file or folder belongs to: by a word in its name, or by a hash of the whole name."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from mrl_experiments.errors import UserError

T = TypeVar("T")
SPLITS = {
    "train": ("train", "training", "restval", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
BY_NAME, BY_POSITION = "by_name", "by_position"
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDING = re.compile(r"(set|data|images?|imgs?)$")


def split_of(name: str) -> str | None:
    """Return the split that one word of a name says, as in seg_train, Test Set, val2017 or trainA."""
    words = [part.casefold() for word in _WORD.findall(name) for part in _CAMEL.split(word)]
    found = {SPLIT_OF.get(word) or SPLIT_OF.get(_ENDING.sub("", word)) for word in words} - {None}
    return found.pop() if len(found) == 1 else None


def is_by_name(split: str) -> bool:
    """Return whether an option `split` asks for a split by each item's own name.

    Raises:
        UserError: If it is neither by_name nor by_position.
    """
    if split not in (BY_NAME, BY_POSITION):
        raise UserError(f"data.source.split={split}", expected=f"{BY_NAME} or {BY_POSITION}")
    return split == BY_NAME


def held_out_names(names: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the names that are held out: those whose hash with `seed`, from [0, 1), is below `share`.

    Adding or removing a name moves no other. Where this would leave one side empty, the name next to the
    border is moved there.

    Raises:
        UserError: If there is nothing to divide.
    """
    place = {name: _place(name, seed) for name in names}
    if not 0 < share < 1 or len(place) < 2:
        raise UserError(
            f"val_share={share} of {len(place)} leaves no train or no val split",
            expected="a share between 0 and 1, and at least two to divide",
        )
    order = sorted(place, key=lambda name: (place[name], name))
    count = sum(number < share for number in place.values())
    return set(order[: min(max(count, 1), len(order) - 1)])


def divided(items: Iterable[T], is_held_out: Callable[[T], bool]) -> dict[str, list[T]]:
    """Return the items of train and of val, which has those that are held out."""
    parts: dict[str, list[T]] = {"train": [], "val": []}
    for item in items:
        parts["val" if is_held_out(item) else "train"].append(item)
    return parts


def _place(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
