"""Chinese characters drawn with the fonts of Debian and Ubuntu: many classes, rendered in seconds.

`kanji1k` is the 1,000 most frequent characters, with font families held out as ImageNet and its shifts
hold out photographs; `kanji4k` is 4,000 further characters for retrieval among unseen classes.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import __version__ as pillow_version
from PIL import features

from mrl_experiments.data.kanji.dictionary import radical_name, read_kanjidic
from mrl_experiments.data.kanji.faces import GROUPS, Face, find_faces, fingerprint
from mrl_experiments.data.kanji.render import SIZE, Perturbation, draw, perturb
from mrl_experiments.data.source import Sample
from mrl_experiments.errors import UserError

RENDERER = 1  # raise it when the same options give other pixels


class Kanji:
    """Characters number `first` to `first + num_classes - 1` by how common they are, most common first.

    Args:
        splits: For each, the groups of font families that draw it.
        perturbation: For each split; `default` is for the others.

    Raises:
        UserError: If fonts or the dictionary are missing.
    """

    channels = 1

    def __init__(
        self,
        name: str,
        first: int,
        num_classes: int,
        splits: Mapping[str, Sequence[str]],
        perturbation: Mapping[str, Mapping[str, float]],
        seed: int,
    ) -> None:
        self.name, self.num_classes, self.seed = name, num_classes, seed
        self.size: int | None = SIZE
        self.splits = tuple(splits)
        unknown = {group for groups in splits.values() for group in groups} - set(GROUPS)
        if unknown:
            raise UserError(f"no font families are called {', '.join(unknown)}", expected=", ".join(GROUPS))
        self.perturbation = {
            split: Perturbation(**perturbation.get(split, perturbation["default"])) for split in splits
        }
        known = read_kanjidic()
        self.characters = known[first : first + num_classes]
        if len(self.characters) < num_classes:
            raise UserError(
                f"characters {first} to {first + num_classes}", expected=f"at most {len(known)} characters"
            )
        self.faces = {split: find_faces(groups, first + num_classes) for split, groups in splits.items()}

    def identity(self) -> dict[str, Any]:
        """Return what determines the images: options, characters, font files, renderer."""
        paths = {face.path for faces in self.faces.values() for face in faces}
        return {
            "renderer": [RENDERER, pillow_version, features.version("freetype2")],
            "characters": "".join(entry.character for entry in self.characters),
            "faces": {
                split: [[face.path.name, face.member] for face in faces]
                for split, faces in self.faces.items()
            },
            "fonts": {path.name: fingerprint(path) for path in sorted(paths)},
            "perturbation": {split: asdict(bounds) for split, bounds in self.perturbation.items()},
            "seed": self.seed,
        }

    def labels(self, split: str) -> range:
        """Return the labels of a split's characters: all."""
        return range(self.num_classes)

    def open(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split, face by face and in each face class by class."""
        shown = self.labels(split)
        text = "".join(self.characters[label].character for label in shown)
        return Glyphs(text, tuple(self.faces[split]), self.perturbation[split], split, self.seed, shown.start)

    def class_names(self) -> list[str]:
        """Return the characters."""
        return [entry.character for entry in self.characters]

    def manifest(self, split: str) -> dict[str, Any]:
        """Return each class's character, radical, grade, strokes, frequency, meanings; each face's font.

        Sample i shows class i % C in face i // C. facts: what evaluations read of each class, see source.py.
        """
        return {
            "classes": self.class_names(),
            "facts": {
                "superclass": [radical_name(entry.radical) for entry in self.characters],
                "frequency": [entry.frequency for entry in self.characters],
            },
            "characters": [asdict(entry) for entry in self.characters],
            "faces": [
                {"family": face.family, "file": face.path.name, "member": face.member}
                for face in self.faces[split]
            ],
            "licence": "characters' data: KANJIDIC, EDRDG, CC BY-SA 4.0; glyphs: the fonts' free licences",
        }


@dataclass(frozen=True)
class Glyphs(Sequence[Sample]):
    """Every character in every face; image i is perturbed by a generator seeded with (seed, split, i).

    A glyph that a face lacks is drawn with the next face of the split instead. Labels are counted from
    `first_label`.
    """

    characters: str
    faces: tuple[Face, ...]
    bounds: Perturbation
    split: str
    seed: int
    first_label: int = 0

    def __len__(self) -> int:
        return len(self.characters) * len(self.faces)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, len(self.characters))
        random = np.random.default_rng((self.seed, zlib.crc32(self.split.encode()), index))
        for face in (*self.faces[number:], *self.faces[:number]):
            glyph = draw(face, self.characters[place])
            if glyph is not None:
                return perturb(glyph, self.bounds, random), self.first_label + place
        raise UserError(
            f"no font of the split {self.split} draws {self.characters[place]}",
            remedy="reinstall the packages in scripts/system/fonts.txt",
        )
