"""Result rows made ready to be placed: each with its line and its settings taken apart."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from mrl_experiments.errors import UserError
from mrl_experiments.nesting import default_dims
from mrl_experiments.report.lines import key_of, labelled
from mrl_experiments.report.metrics import fault
from mrl_experiments.results import DIGITS, ResultRow, read_rows

Value = str | int | bool | float | None
IN_MFLOPS = {"macs": "MFLOPs", "network_macs": "network_MFLOPs", "head_macs": "head_MFLOPs"}
DRAW = "draw"  # names one random draw; evaluate.py also writes the mean over draws, which is what counts

OF_OWN_CLASSIFIER = (  # evaluations
    "linear", "language", "superclass", "trends", "adaptive_classification", "adaptive_decoding",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A result row with its line and its settings by name.

    interpolated: whether its size lies between the trained ones. home: the data set it is shown with, such as
    imagenet for a row of imagenet_r.
    """

    row: ResultRow
    line: str
    settings: dict[str, str]
    interpolated: bool
    home: str

    def get(self, name: str) -> Value:
        """Return the value of a column of the row, of the line, or of a setting ("" where it has none)."""
        if name in ("line", "dataset"):
            return self.line if name == "line" else self.home
        value: Value = vars(self.row).get(name, self.settings.get(name, ""))
        return int(value) if isinstance(value, str) and value.isdecimal() and len(value) <= DIGITS else value


def find_rows(patterns: str | Sequence[str]) -> tuple[list[ResultRow], list[str]]:
    """Read the rows of all CSV files that match the patterns.

    Args:
        patterns: one or several paths or globs; `**` matches any number of folders.

    Returns:
        The rows, and what to say of patterns without files and of files that were left out.

    Raises:
        UserError: when there are no rows at all.
    """
    several = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    patterns = [str(pattern) for pattern in (patterns if several else [patterns])]
    rows: list[ResultRow] = []
    unmatched, left_out = [], []
    files: set[str] = set()
    for pattern in map(os.path.expanduser, patterns):
        found = [pattern] if os.path.isfile(pattern) else glob(pattern, recursive=True)
        files.update(map(os.path.normpath, found))
        if not found:
            unmatched.append(f"no file matches {printable(pattern)}")
    for path in sorted(files):
        try:
            rows += read_rows(Path(path))
        except UserError as error:
            left_out.append(f"left out: {printable(error.problem)}")
    if not rows:
        raise UserError(
            "; ".join([f"no result rows in {printable(', '.join(patterns)) or 'nothing'}", *left_out]),
            expected="files that evaluate.py wrote",
            remedy="python evaluate.py run=<name> evaluation=linear, or name files: 'rows=[\"<glob>\"]'",
        )
    return rows, unmatched + left_out


def faulty(rows: Sequence[ResultRow]) -> list[str]:
    """Name the runs with values that no metric can have: no mean, figure or claim counts them."""
    counts = Counter(
        (row.run, row.evaluation, row.metric, reason)
        for row in rows
        if (reason := fault(row.metric, row.value))
    )
    return [
        f"{count} row{'s' if count > 1 else ''} of {printable(run)} {'are' if count > 1 else 'is'} {reason}"
        f" ({printable(f'{metric} of {evaluation}')}): their cells say so, figures and claims leave them out"
        for (run, evaluation, metric, reason), count in sorted(counts.items())
    ]


def printable(text: str) -> str:
    """Return text with what a terminal or page could not show, or would obey, as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def entries(rows: Sequence[ResultRow], homes: Mapping[str, str] | None = None) -> list[Entry]:
    """Give each row its line; rows of FF runs may belong to two lines or to none.

    homes: the data set to show another one with.

    An FF run counts for the line "ff" only at the size it was trained at: a model for each size.
    Its other prefixes and its reductions are lines of their own, for the widest FF run alone (Table 2).
    """
    sizes = _Sizes(rows)
    return [
        Entry(
            _in_mflops(row),
            labelled(line, row.label),
            settings,
            row.dim not in sizes.usual(row),
            (homes or {}).get(row.dataset, row.dataset),
        )
        for row in rows
        if DRAW not in (settings := _settings(row.setting))
        for line in _lines(row, sizes)
    ]


class _Sizes:
    """At which sizes FF runs were trained, and which sizes are usual for a model on a data set."""

    def __init__(self, rows: Sequence[ResultRow]) -> None:
        self._of_run: dict[str, int] = {}
        self._widest: dict[tuple[str, ...], int] = {}
        self._trained: dict[tuple[str, ...], set[int]] = defaultdict(set)
        largest: dict[tuple[str, ...], int] = defaultdict(int)
        for row in rows:
            place = _place(row)
            largest[place] = max(row.dim, largest[place])
            if row.trained:
                self._trained[place].add(row.dim)
            if row.trained and row.method == "ff" and row.reduction == "prefix":
                self._of_run[row.run] = max(row.dim, self._of_run.get(row.run, 0))
                self._widest[place] = max(row.dim, self._widest.get(place, 0))
        for place, width in largest.items():  # reduced rows alone don't say what was trained
            trained = self._trained[place]
            trained.update(default_dims(max(trained, default=width)))

    def own(self, row: ResultRow) -> bool:
        """Whether a row of an FF run is at the size the run was trained at."""
        return row.dim == self._of_run.get(row.run)

    def widest(self, row: ResultRow) -> bool:
        """Whether an FF run is the widest of its model, data set and label."""
        return self._of_run.get(row.run) == self._widest.get(_place(row))

    def usual(self, row: ResultRow) -> set[int]:
        """Return the sizes that some run was trained at, and the halvings of the largest."""
        return self._trained[_place(row)]


def _place(row: ResultRow) -> tuple[str, ...]:
    return row.model, row.dataset, row.label


def _lines(row: ResultRow, sizes: _Sizes) -> Iterator[str]:
    key = key_of(row.method, row.reduction, row.evaluation)
    if row.method != "ff":
        yield key
    elif row.reduction != "prefix":
        if sizes.widest(row):
            yield key
    else:
        if sizes.own(row):
            yield key
        # The classifier of an FF run serves its own size alone: no shorter prefixes there.
        if sizes.widest(row) and row.evaluation not in OF_OWN_CLASSIFIER:
            yield key.replace("ff", "ff_prefix", 1)


def _in_mflops(row: ResultRow) -> ResultRow:
    """Write multiply-adds as the paper does, in millions."""
    if row.metric not in IN_MFLOPS:
        return row
    return replace(row, metric=IN_MFLOPS[row.metric], value=row.value / 1e6)


def _settings(setting: str) -> dict[str, str]:
    """Take "k=10 index=flat" apart; a funnel's stages also tell its first shortlist."""
    settings = dict(part.split("=", 1) for part in setting.split() if "=" in part)
    if "stages" in settings:
        settings["shortlist"] = settings["stages"].split(">")[0].split(":")[-1]
    return settings
