"""A split that depends on each item's own name, so that adding or removing one moves no other."""

import hashlib
import os
from collections.abc import Iterable

from mrl_experiments.errors import UserError

BY_NAME, BY_POSITION = "by_name", "by_position"


def is_by_name(split: str) -> bool:
    """Return whether an option `split` asks for this split. Raises UserError for an unknown value."""
    if split not in (BY_NAME, BY_POSITION):
        raise UserError(f"data.source.split={split}", expected=f"{BY_NAME} or {BY_POSITION}")
    return split == BY_NAME


def held_out_names(names: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the names that are held out: those whose hash with `seed`, a number in [0, 1), is below `share`.

    Where this would leave one side empty, the name next to the border is moved there. Raises UserError when
    there is nothing to divide.
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


def _place(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
