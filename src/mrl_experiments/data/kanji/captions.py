"""Chinese characters with their English meanings: pairs of an image and a text."""

from collections.abc import Sequence
from typing import Any

from mrl_experiments.data.kanji.kanji import Kanji
from mrl_experiments.errors import UserError


class KanjiCaptions(Kanji):
    """Glyphs as Kanji draws them; a character's captions are its meanings in each of the templates.

    Args:
        unseen: How many of the characters, evenly spread, training never sees; they are the last labels.
        unseen_splits: The splits that show these and no others.
        meanings: How many a caption names at most.
        templates: Texts with {} for the meanings.
        options: Of Kanji.

    Raises:
        UserError: For a character without a meaning.
    """

    def __init__(
        self,
        unseen: int,
        unseen_splits: Sequence[str],
        meanings: int,
        templates: Sequence[str],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        num_classes = self.num_classes
        if not 1 <= unseen < num_classes or not templates or any("{}" not in one for one in templates):
            raise UserError(
                f"unseen={unseen}, templates={list(templates)}",
                expected=f"fewer than num_classes={num_classes} characters, and texts that contain {{}}",
            )
        every = num_classes // unseen
        held_out = [entry for i, entry in enumerate(self.characters) if i % every == every - 1][:unseen]
        seen = [entry for entry in self.characters if entry not in held_out]
        self.characters = [*seen, *held_out]
        self.seen, self.unseen_splits = len(seen), tuple(unseen_splits)
        if lacking := [entry.character for entry in self.characters if not entry.meanings]:
            raise UserError(f"KANJIDIC gives no English meaning of {', '.join(lacking[:5])}")
        named = [", ".join(entry.meanings[:meanings]) for entry in self.characters]
        self.captions = [[template.format(text) for template in templates] for text in named]

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: also which characters a split shows."""
        return {**super().identity(), "seen": self.seen, "unseen_splits": list(self.unseen_splits)}

    def labels(self, split: str) -> range:
        """Return the labels of a split's characters."""
        return range(self.seen, self.num_classes) if split in self.unseen_splits else range(self.seen)

    def manifest(self, split: str) -> dict[str, Any]:
        """Return characters, captions and faces; sample i shows character i % C of `shown` in face i // C."""
        return {**super().manifest(split), "shown": [*self.labels(split)], "captions": self.captions}
