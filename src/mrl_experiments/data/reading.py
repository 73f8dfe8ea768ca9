"""What of a user's files was read, what was read otherwise than it is written, and what was left out."""

from dataclasses import dataclass, field
from typing import Any

SHOWN = 5  # examples of each kind


@dataclass
class Tally:
    """Files, lines or names, counted by kind, with the first few of each.

    Attributes:
        kinds: {kind: [count, examples]}, in the order in which they came.
    """

    kinds: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, kind: str, *examples: object) -> None:
        """Count some more of a kind."""
        self._add(kind, len(examples), [shown(example) for example in examples[:SHOWN]])

    def add_all(self, other: "Tally") -> None:
        """Count what another tally has counted."""
        for kind, (count, examples) in other.kinds.items():
            self._add(kind, count, examples)

    def _add(self, kind: str, count: int, examples: list[str]) -> None:
        if count:
            before, known = self.kinds.get(kind, (0, []))
            self.kinds[kind] = [before + count, [*known, *examples][:SHOWN]]

    @property
    def total(self) -> int:
        """The count of all kinds together."""
        return sum(count for count, _ in self.kinds.values())

    def described(self) -> dict[str, dict[str, Any]]:
        """Return JSON values: {kind: {count, first}}."""
        return {kind: {"count": count, "first": names[0]} for kind, (count, names) in self.kinds.items()}

    def listed(self, most: int) -> str:
        """Return the counts, each with its first examples, at most `most`, and dots where there are more."""
        return ", ".join(
            f"{count:,} {kind} ({', '.join(names[:most])}{', ...' * (count > most)})"
            for kind, (count, names) in self.kinds.items()
        )

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {kind} ({names[0]})" for kind, (count, names) in self.kinds.items())


@dataclass
class Reading:
    """An account of what was read.

    Attributes:
        read: How many lines or files.
        converted: What was read otherwise than it is written.
        skipped: What was left out.
        digests: Of the content of files, in order, where they are kept.
        unread: The names of those files that are skipped.
    """

    read: int = 0
    converted: Tally = field(default_factory=Tally)
    skipped: Tally = field(default_factory=Tally)
    digests: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add_all(self, other: "Reading") -> None:
        """Count what another account has counted."""
        self.read += other.read
        self.converted.add_all(other.converted)
        self.skipped.add_all(other.skipped)

    def lines(self) -> list[str]:
        """Return one line for each kind: how many, and which for example."""
        return [
            f"{verb} {count} {kind}: {', '.join(names)}{', ...' * (count > len(names))}"
            for verb, tally in (("converted", self.converted), ("skipped", self.skipped))
            for kind, (count, names) in tally.kinds.items()
        ]

    def manifest(self) -> dict[str, Any]:
        """Return {read: n, converted: {kind: n}, skipped: {reason: n}}."""
        converted, skipped = (
            {kind: count for kind, (count, _) in tally.kinds.items()}
            for tally in (self.converted, self.skipped)
        )
        return {"read": self.read, "converted": converted, "skipped": skipped}


def shown(name: object) -> str:
    r"""Return a name as one printable line: what is no text in it as \x.., \n or \u...."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: list[str], count: int = SHOWN) -> str:
    """Return the first `count` names, and dots where there are more."""
    return ", ".join(map(shown, names[:count])) + ", ..." * (len(names) > count)
