"""A CSV or TSV file of images and their captions, and what in it cannot be used."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mrl_experiments.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMNS = ("image", "caption")
SHOWN = 3  # examples of each defect


@dataclass(frozen=True)
class Pair:
    """An image file, a text that describes it, and the split it belongs to where the table says so."""

    image: Path
    caption: str
    split: str


def read_pairs(table: Path) -> tuple[list[Pair], list[str]]:
    """Read a table with the columns image, caption and perhaps split; image paths start at its folder.

    Also returns one line for each kind of defect that was skipped: how many, and which for example.
    Raises UserError when the file is no such table, or nothing in it can be used.
    """
    if table.suffix not in SEPARATORS:
        raise UserError(f"{table} is no table of captions", expected=f"a name in {', '.join(SEPARATORS)}")
    skipped: dict[str, list[str]] = defaultdict(list)
    try:
        pairs = list(_usable(table, skipped))
    except (OSError, csv.Error) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    if not pairs:
        raise UserError(f"{table} has no usable pair: {'; '.join(_described(skipped)) or 'it is empty'}")
    used = {pair.image for pair in pairs}
    skipped["images without a caption"] += [str(path) for path in _images(table.parent) if path not in used]
    return pairs, _described(skipped)


def _usable(table: Path, skipped: dict[str, list[str]]) -> Iterator[Pair]:
    # What is not UTF-8 is carried along as lone surrogates, so that the other lines can be read.
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file, delimiter=SEPARATORS[table.suffix])
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(
                f"{table} lacks the column {missing[0]}", expected=f"a first line with {', '.join(COLUMNS)}"
            )
        for row in reader:
            image, caption, split = ((row.get(name) or "").strip() for name in (*COLUMNS, "split"))
            place = f"line {reader.line_num}"
            if not _is_utf8(image + caption + split):
                skipped["lines that are not UTF-8"].append(place)
            elif not image or not (table.parent / image).is_file():
                skipped["captions without an image"].append(f"{place} ({image or 'no path'})")
            elif not caption:
                skipped["images without a caption"].append(f"{place} ({image})")
            else:
                yield Pair(table.parent / image, caption, split)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _images(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)


def _described(skipped: dict[str, list[str]]) -> list[str]:
    return [
        f"skipped {len(found)} {kind}: {', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''}"
        for kind, found in skipped.items()
        if found
    ]
