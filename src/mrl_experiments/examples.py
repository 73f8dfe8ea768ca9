"""Samples to look at, as an evaluation finds them: stored beside its rows, shown by the report."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mrl_experiments.files import read_object, reading, write_json

SUFFIX = ".json"  # of the file beside x.csv
MOST_BYTES = 8 << 20  # of a file that is read
MOST = 10_000  # entries of a list, and the largest of counts that are no rows
LONGEST = 300  # characters of a text
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]{1,30000}={0,2}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Sample:
    """A sample of the queries, or of the database.

    Attributes:
        of_queries: True for one of the queries.
        row: Where it stands in its split.
        label: A number of its class, among these examples.
        name: What the class is called.
        picture: A small image as a data URL, or "".
        text: What it says, or "".
    """

    of_queries: bool
    row: int
    label: int
    name: str
    picture: str = ""
    text: str = ""


@dataclass(frozen=True)
class Stage:
    """What a stage of a funnel keeps: how many, how many of those are of the query's class, and the first."""

    dim: int
    kept: int
    right: int
    first: list[int]


@dataclass(frozen=True)
class Query:
    """A query. near: what is nearest to it at each dim. funnel: its way through one."""

    sample: int
    near: list[list[int]]
    funnel: list[Stage]


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another.

    Attributes:
        sample: One of the class.
        other: What it was taken for.
        counts: How many samples of the class are taken for that other class at each dim.
        of: How many the class has.
    """

    sample: int
    other: int
    counts: list[int]
    of: int


@dataclass(frozen=True)
class Examples:
    """What is shown of one split. Samples are named by their place in `samples`.

    Attributes:
        dims: Those that stand side by side.
        top1: The share of queries whose nearest neighbour has their class, at each dim.
        queries: Some queries.
        confusions: The commonest confusions of each dim.
        samples: All that these name.
    """

    dims: list[int]
    top1: list[float]
    queries: list[Query]
    confusions: list[Confusion]
    samples: list[Sample]


@dataclass(frozen=True)
class Sheet:
    """Examples with what places them, as the columns of a result row do."""

    run: str
    method: str
    model: str
    dataset: str
    split: str
    reduction: str
    label: str
    seed: int | None
    examples: Examples


def write_sheets(rows: Path, sheets: Iterable[Sheet]) -> None:
    """Write examples beside the file of the rows that were measured with them."""
    write_json(rows.with_suffix(SUFFIX), {"sheets": [asdict(sheet) for sheet in sheets]})


def read_sheets(rows: Path) -> list[Sheet]:
    """Read the examples beside a file of rows, [] where there are none.

    Raises:
        UserError: If the file cannot be read, is too large, or holds anything else than examples: values of
            other types, samples that are not there, pictures that are none, control characters.
    """
    path = rows.with_suffix(SUFFIX)
    remedy = "delete it and repeat the evaluation that wrote it: evaluation=examples"
    with reading(path, "a file that evaluate.py wrote", remedy, "is no file of examples"):
        if not path.exists():
            return []
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        sheets: list[Sheet] = _typed(list[Sheet], read_object(path, remedy).get("sheets"))
        for sheet in sheets:
            _check(sheet.examples)
        return sheets


def _typed(kind: Any, value: Any) -> Any:
    """Return JSON as what `kind` says. Raises ValueError where it is anything else."""
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != kinds.keys():
            raise ValueError(f"its {kind.__name__.lower()} is no object of {', '.join(kinds)}")
        return kind(**{name: _typed(of, value[name]) for name, of in kinds.items()})
    if get_origin(kind) is list:
        if not isinstance(value, list) or len(value) > MOST:
            raise ValueError(f"a list is missing, or has more than {MOST:,} entries")
        return [_typed(get_args(kind)[0], part) for part in value]
    if type(value) not in (get_args(kind) or (kind,)) and not (kind is float and type(value) is int):
        raise ValueError(f"{str(value)[:40]!r} is of another type")
    if isinstance(value, str) and value and not PICTURE.fullmatch(value):
        if len(value) > LONGEST or UNPRINTABLE.search(value):
            raise ValueError(f"{value[:40]!r} is too long, or has a control character")
    elif isinstance(value, int | float) and not (isfinite(value) and 0 <= value < 2**53):
        raise ValueError(f"{str(value)[:40]!r} is out of range")
    return value


def _check(examples: Examples) -> None:
    """Raise ValueError where parts of examples do not fit each other."""
    count, width = len(examples.samples), len(examples.dims)
    lists = [[confusion.sample, confusion.other] for confusion in examples.confusions]
    for query in examples.queries:
        lists += [[query.sample], *query.near, *(stage.first for stage in query.funnel)]
    if any(place >= count for places in lists for place in places):
        raise ValueError(f"it names a sample beyond its {count}")
    widths = [len(examples.top1), *(len(query.near) for query in examples.queries)]
    if {*widths, *(len(confusion.counts) for confusion in examples.confusions)} != {width}:
        raise ValueError(f"a part has not one entry for each of {width} dims")
    if any(sample.picture and not PICTURE.fullmatch(sample.picture) for sample in examples.samples):
        raise ValueError("a picture is none")


def plain_text(text: str) -> str:
    """Return text in a line of at most LONGEST characters, without those that nothing shows."""
    line = " ".join(UNPRINTABLE.sub(" ", text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
