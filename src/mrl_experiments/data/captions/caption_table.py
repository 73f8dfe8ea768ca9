"""A CSV or TSV file of images and their captions, and what in it cannot be used."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from mrl_experiments.data.captions.caption_images import CaptionImages
from mrl_experiments.data.images.image_files import is_utf8
from mrl_experiments.data.reading import Reading, listed, shown
from mrl_experiments.data.splits import SPLIT_OF
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_text

SEPARATORS = {".csv": (",", ";", "|"), ".tsv": ("\t",)}
COLUMNS = ("image", "caption")


@dataclass(frozen=True)
class Pair:
    """An image file, a text that describes it, and the split it belongs to where the table says so."""

    image: Path
    caption: str
    split: str


class Row(NamedTuple):
    """The fields of a table's row, the lines it stands on, and what is wrong with its quotation marks."""

    fields: list[str]
    first: int
    last: int
    problem: str = ""


def read_pairs(table: Path) -> tuple[list[Pair], Reading]:
    """Read a table with the columns image, caption and perhaps split; image paths start at its folder.

    A .csv separates fields by commas (or semicolons, or bars) and may put them in quotation marks; a .tsv
    separates them by tabs, and quotation marks are part of the text. Also returns what was skipped, such as
    lines with too many fields, and what was read otherwise than it is written.

    Raises:
        UserError: If the file is no such table, a quotation mark is left open, image paths leave the
            folder, a split has an unknown name, or nothing can be used.
    """
    reading = Reading()
    lines = _lines(table, reading)
    names, separator, start = _header(table, lines, reading)
    images = CaptionImages(table.parent, reading)
    quoted = separator != "\t" or lines[start].startswith('"')
    rows = [*_rows(lines, separator, start + 1, quoted=quoted)]
    _refuse_open_quotes(table, rows, lines, separator, images)
    pairs = [*_usable(rows, lines, names, images, reading)]
    images.refuse_leaving(table)
    pairs = _of_known_splits(table, pairs, reading)
    if not pairs:
        raise UserError(f"{table} has no usable pair: {'; '.join(reading.lines()) or 'it is empty'}")
    reading.read = len(pairs)
    used = {pair.image for pair in pairs}
    bare = [path for path in images.all if path.suffix.lower() in IMG_EXTENSIONS and path not in used]
    reading.skipped.add("images without a caption", *bare)
    return pairs, reading


def _lines(table: Path, reading: Reading) -> list[str]:
    """Return the table's lines, each with its end as a line feed."""
    if table.suffix.lower() not in SEPARATORS:
        raise UserError(
            f"{table} is no table of captions",
            expected=f"a name in {', '.join(SEPARATORS)}",
            remedy="convert it, for example with pandas: read_parquet or read_json, rename the columns to "
            "image and caption, to_csv(index=False)",
        )
    # What is not UTF-8 is carried along as lone surrogates, so that the other lines can be read.
    text = read_text(table, errors="surrogateescape").replace("\r\n", "\n")
    if "\n" not in text:  # as old Macs wrote it
        text = text.replace("\r", "\n")
    lines = [*io.StringIO(text, newline="\n")]
    if "\r" in text:
        places = [f"line {n}" for n, line in enumerate(lines, 1) if "\r" in line]
        reading.converted.add("lines with a carriage return inside, now a blank", *places)
    return [line.replace("\r", " ") for line in lines]


def _header(table: Path, lines: Sequence[str], reading: Reading) -> tuple[list[str], str, int]:
    """Return the names of the columns, what separates them, and the heading's position in `lines`."""
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines) - 1)
    heading = lines[start] if lines else ""
    separators = SEPARATORS[table.suffix.lower()]
    found = {separator: _names(heading, separator) for separator in (*separators, *",\t;|")}
    fitting = [separator for separator, names in found.items() if {*COLUMNS} <= {*names}]
    if not fitting:
        missing = next(name for name in COLUMNS if name not in found[separators[0]])
        raise UserError(
            f"{table} lacks the column {missing}: it begins with {shown(heading.strip())[:80]!r}",
            expected=f"a first line with {', '.join(COLUMNS)}",
        )
    if fitting[0] not in separators:
        other = next(suffix for suffix, own in SEPARATORS.items() if fitting[0] in own)
        raise UserError(
            f"{table} separates its columns by {fitting[0]!r}",
            expected=f"{separators[0]!r} in a {table.suffix} file",
            remedy=f"name it {table.with_suffix(other).name}",
        )
    names = found[fitting[0]]
    if twice := [name for name in (*COLUMNS, "split") if names.count(name) > 1]:
        raise UserError(
            f"{table} has {names.count(twice[0])} columns named {twice[0]}",
            expected="one of each name",
            remedy="give each caption of an image a line of its own",
        )
    unused = [name for name in names if name not in (*COLUMNS, "split")]
    reading.skipped.add("columns that are not used", *unused)
    return names, fitting[0], start


def _names(heading: str, separator: str) -> list[str]:
    fields = next(csv.reader([heading], delimiter=separator), [])
    return [field.strip().casefold() for field in fields]


def _rows(lines: Sequence[str], separator: str, start: int, *, quoted: bool) -> Iterator[Row]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader, last = csv.reader(lines[start:], delimiter=separator, strict=True, quoting=quoting), start
    while True:
        problem, first = "", last + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], str(error)
        last = start + reader.line_num
        if problem or any(field.strip() for field in fields):
            yield Row(fields, first, last, problem)


def _refuse_open_quotes(
    table: Path, rows: Sequence[Row], lines: Sequence[str], separator: str, images: CaptionImages
) -> None:
    """Raise UserError for rows that a quotation mark has made to swallow others.

    Text over several lines is allowed in quotation marks; a line of its own with an existing image is not.
    """

    def is_open(row: Row) -> bool:
        if row.problem or row.first == row.last:
            return row.first < row.last or row.problem.startswith("unexpected end")
        inside = [lines[number - 1].split(separator) for number in range(row.first + 1, row.last + 1)]
        return any(images.exists(field.strip(' "\n')) for fields in inside[:1000] for field in fields)

    open_ones = [f"line {row.first}" for row in rows if is_open(row)]
    if open_ones:
        raise UserError(
            f"{table}: {len(open_ones)} quotation marks are opened and not closed: {listed(open_ones)}",
            expected="fields in quotation marks end with one, and marks inside them are doubled",
            remedy="repair these lines, or save the table as .tsv, where quotation marks are text",
        )


def _usable(
    rows: Sequence[Row], lines: Sequence[str], names: list[str], images: CaptionImages, reading: Reading
) -> Iterator[Pair]:
    seen: set[Pair] = set()
    skipped, converted, width = reading.skipped, reading.converted, len(names)
    for row in rows:
        place, fields = f"line {row.first}", row.fields
        if any("\0" in line for line in lines[row.first - 1 : row.last]):
            skipped.add("lines with NUL bytes", place)
        elif row.problem:
            skipped.add(f"lines that are no CSV: {row.problem}", place)
        elif len(fields) < width:
            skipped.add(f"lines with fewer than {width} fields", place)
        elif any(field.strip() for field in fields[width:]):
            kind = f"lines with more than {width} fields (a separator that is not in quotation marks?)"
            skipped.add(kind, place)
        else:
            if len(fields) > width:
                converted.add("lines with empty fields at their end", place)
            by_name = dict(zip(names, (field.strip() for field in fields), strict=False))
            image, caption, split = (by_name.get(name, "") for name in (*COLUMNS, "split"))
            if not is_utf8(image + caption + split):
                skipped.add("lines that are not UTF-8", place)
            elif (path := images.find(image, place)) is None:
                skipped.add("captions without an image", f"{place} ({image or 'no path'})")
            elif not caption:
                skipped.add("images without a caption", f"{place} ({image})")
            elif (pair := Pair(path, caption, split)) in seen:
                skipped.add("lines that repeat others", place)
            else:
                seen.add(pair)
                yield pair


def _of_known_splits(table: Path, pairs: list[Pair], reading: Reading) -> list[Pair]:
    """Return the pairs with the split train, val, test or none, whichever word the table has for it."""
    words = {pair.split for pair in pairs} - {""}
    known = {word: SPLIT_OF.get(re.sub(r"\d{4}$", "", word.casefold())) for word in words}
    if strangers := sorted(word for word, split in known.items() if split is None):
        raise UserError(
            f"{table}: {len(strangers)} unknown words in the column split: "
            f"{', '.join(repr(shown(word)) for word in strangers[:5])}",
            expected="train or val in the column split; also known: " + ", ".join(SPLIT_OF),
        )
    if "test" in known.values() and "val" not in known.values():
        known = {word: "val" if split == "test" else split for word, split in known.items()}
    changed = [f"{word} is {split}" for word, split in sorted(known.items()) if word != split]
    reading.converted.add("words in the column split", *changed)
    return [Pair(pair.image, pair.caption, known.get(pair.split) or "") for pair in pairs]
