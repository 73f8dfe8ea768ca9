"""KANJIDIC (Debian package `kanjidic`, EDRDG licence, CC BY-SA): what is known about each character."""

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from mrl_experiments.errors import UserError
from mrl_experiments.files import require_regular

KANJIDIC = Path("/usr/share/edict/kanjidic")
FIRST_RADICAL = 0x2F00  # in Unicode


@dataclass(frozen=True)
class Character:
    """What KANJIDIC says of one character.

    Attributes:
        jis: Its JIS X 0208 code.
        radical: Its number, 1 to 214.
        strokes: Their count.
        grade: The school year that teaches it (8: secondary school, 9, 10: names).
        frequency: Its rank in newspapers, 1 to 2,501.
        meanings: In English.
    """

    character: str
    jis: str
    radical: int
    strokes: int
    grade: int | None
    frequency: int | None
    meanings: tuple[str, ...]


def parse_line(line: str) -> Character:
    """Read one entry of KANJIDIC: the character, its JIS code, fields with a letter, meanings in braces."""
    character, jis, *_ = line.split()

    def number(letter: str) -> int | None:
        found = re.search(rf" {letter}(\d+)", line)
        return int(found[1]) if found else None

    radical, strokes = number("B"), number("S")
    if radical is None or strokes is None:
        raise ValueError(f"no radical or stroke count: {line[:40]}")
    meanings = tuple(re.findall(r"{(.*?)}", line))
    return Character(character, jis, radical, strokes, number("G"), number("F"), meanings)


def radical_name(number: int) -> str:
    """Return the English name that Unicode gives a radical, 1 to 214: "water" for 85."""
    name = unicodedata.name(chr(FIRST_RADICAL + number - 1))
    return name.removeprefix("KANGXI RADICAL ").lower().replace(" ", "_")


def read_kanjidic(path: Path = KANJIDIC) -> list[Character]:
    """Return all characters, the most common first: by frequency rank, then by grade, then by JIS code.

    Raises:
        UserError: If the dictionary is not installed or not readable as one.
    """
    remedy = "sudo apt-get install -y --no-install-recommends kanjidic, or use data=digits"
    try:
        if path.exists():
            require_regular(path)
        lines = path.read_text(encoding="euc_jp").splitlines()
        characters = [parse_line(line) for line in lines if line and not line.startswith("#")]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", remedy=remedy) from error
    except ValueError as error:
        raise UserError(f"{path} is not KANJIDIC: {error}", remedy=f"reinstall it: {remedy}") from error
    return sorted(characters, key=_commonness)


def _commonness(entry: Character) -> tuple[float, float, str]:
    return entry.frequency or math.inf, entry.grade or math.inf, entry.jis
