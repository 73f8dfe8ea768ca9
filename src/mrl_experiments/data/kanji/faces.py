"""Which font faces draw which part of the Kanji data: the table fonts.csv, whatever else is installed."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrl_experiments.errors import UserError

FONTS = Path("/usr/share/fonts")
GROUPS = ("train", "val", "sketch", "display", "bitmap")


@dataclass(frozen=True)
class Family:
    """Faces of one design, from one Debian package; a row of fonts.csv.

    Attributes:
        group: One of GROUPS.
        files: Names of font files.
        members: Which faces of each file to take; a collection has several.
        covers: How many of the most common characters it draws, or nearly so.
    """

    group: str
    name: str
    package: str
    files: tuple[str, ...]
    members: Sequence[int]
    covers: int


@dataclass(frozen=True)
class Face:
    """One face on this machine."""

    family: str
    path: Path
    member: int


def _families() -> Iterator[Family]:
    with (Path(__file__).parent / "fonts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            files, members = tuple(row["files"].split()), range(int(row["members"]))
            yield Family(row["group"], row["name"], row["package"], files, members, int(row["covers"]))


FAMILIES = tuple(_families())


def find_faces(groups: Sequence[str], covers: int, root: Path = FONTS) -> list[Face]:
    """Return the faces of `groups` that draw the `covers` most common characters, in the table's order.

    Raises:
        UserError: With the command that installs what is missing under `root`.
    """
    wanted = [family for family in FAMILIES if family.group in groups and family.covers >= covers]
    paths = {
        path.name: path
        for path in sorted(root.rglob("*"))
        # A pipe would be waited for without end.
        if path.suffix in (".ttf", ".ttc", ".otf") and path.is_file()
    }
    lacking = [family for family in wanted if not set(family.files) <= paths.keys()]
    if lacking:
        packages = sorted({family.package for family in lacking})
        missing = sorted({file for family in lacking for file in family.files} - paths.keys())
        raise UserError(
            f"{len(missing)} font files are not installed under {root}: {', '.join(missing[:5])}, ...",
            remedy=f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}\n"
            "            or use data=digits, which needs no system package",
        )
    return [
        Face(family.name, paths[file], member)
        for family in wanted
        for file in family.files
        for member in family.members
    ]


def fingerprint(path: Path) -> str:
    """Return a hash of a font's size and first 4 KiB, where its table of checksums lies."""
    with path.open("rb") as file:
        head = file.read(4096)
    return hashlib.sha256(head + str(path.stat().st_size).encode()).hexdigest()[:16]
