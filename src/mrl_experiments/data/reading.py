"""What of a user's files was read, what was read otherwise than it is written, and what was left out."""

from collections import defaultdict
from typing import Any

SHOWN = 5  # examples of each kind


def shown(name: object) -> str:
    r"""Return a name as it can be printed and stored: bytes that are not UTF-8 as \x.., no line breaks."""
    raw = str(name).encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")


class Reading:
    """An account of what was read.

    read: how many lines or files. digests: of the content of files, in order, where they are kept.
    converted, skipped: for each kind or reason, the places concerned, such as lines or files.
    """

    def __init__(self) -> None:
        self.read = 0
        self.digests: list[str] = []
        self.converted: dict[str, list[str]] = defaultdict(list)
        self.skipped: dict[str, list[str]] = defaultdict(list)

    def __add__(self, other: "Reading") -> "Reading":
        both = Reading()
        both.read = self.read + other.read
        for one in (self, other):
            for kind, places in one.converted.items():
                both.converted[kind] += places
            for kind, places in one.skipped.items():
                both.skipped[kind] += places
        return both

    def lines(self) -> list[str]:
        """Return one line for each kind: how many, and which for example."""
        return [
            f"{verb} {len(places)} {kind}: {listed(places)}"
            for verb, found in (("converted", self.converted), ("skipped", self.skipped))
            for kind, places in found.items()
            if places
        ]

    def manifest(self) -> dict[str, Any]:
        """Return {read: n, converted: {kind: n}, skipped: {reason: n}}."""
        counts = [
            {kind: len(places) for kind, places in found.items() if places}
            for found in (self.converted, self.skipped)
        ]
        return {"read": self.read, "converted": counts[0], "skipped": counts[1]}


def listed(places: list[str]) -> str:
    """Return the first few places, and dots where there are more."""
    return ", ".join(shown(place) for place in places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
