"""What was left out or changed while reading: counted by kind, with the first example of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """kinds: {kind: [count, first example]}, in the order in which they came."""

    kinds: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, kind: str, example: Path | str, count: int = 1) -> None:
        """Count one more of a kind."""
        self.kinds.setdefault(kind, [0, shown(example)])[0] += count

    def add_all(self, other: "Tally") -> None:
        """Count what another tally has counted."""
        for kind, (count, first) in other.kinds.items():
            self.add(kind, first, count)

    @property
    def total(self) -> int:
        """Of all kinds together."""
        return sum(count for count, _ in self.kinds.values())

    def described(self) -> dict[str, dict[str, Any]]:
        """Return JSON values: {kind: {count, first}}."""
        return {kind: {"count": count, "first": first} for kind, (count, first) in self.kinds.items()}

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {kind} ({first})" for kind, (count, first) in self.kinds.items())


def shown(name: Path | str) -> str:
    """Return a name as one line of readable text, whatever characters or bytes it is made of."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
