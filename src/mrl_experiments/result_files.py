"""The result rows and examples of many files: of a folder, of a run, of all that globs name."""

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from mrl_experiments.data.reading import shown
from mrl_experiments.errors import UserError
from mrl_experiments.examples import Sheet, read_sheets
from mrl_experiments.results import ResultRow, read_rows


def find_rows(
    patterns: str | Sequence[str], sheets: list[Sheet] | None = None
) -> tuple[list[ResultRow], list[str]]:
    """Read the rows of all CSV files that match the patterns.

    Args:
        patterns: one or several paths or globs; `**` matches any number of folders.
        sheets: receives the examples that lie beside these files, in the order of their seeds.

    Returns:
        The rows, and what to say of patterns without files and of files that were left out.

    Raises:
        UserError: when there are no rows at all.
    """
    several = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    patterns = [str(pattern) for pattern in (patterns if several else [patterns])]
    rows: list[ResultRow] = []
    notes: list[str] = []
    files: set[str] = set()
    sheets = [] if sheets is None else sheets
    for pattern in map(os.path.expanduser, patterns):
        found = [pattern] if os.path.isfile(pattern) else glob(pattern, recursive=True)
        files.update(map(os.path.normpath, found))
        notes += [] if found else [f"no file matches {shown(pattern)}"]
        parent = os.path.dirname(pattern)
        # Glob silently passes over what stands where a folder is named.
        for place in sorted(glob(parent, recursive=True)) if not has_magic(os.path.basename(parent)) else []:
            if not (os.path.isdir(place) and os.access(place, os.R_OK | os.X_OK)):
                notes.append(f"left out: {shown(place)} is no folder that can be read")
    for path in map(Path, sorted(files)):
        try:
            rows += (read := read_rows(path))
            sheets += (beside := read_sheets(path))
        except UserError as error:
            notes.append(f"left out: {shown(error.problem)}")
            continue
        folder = path.absolute().parent
        others = sorted({*(row.run for row in read), *(of.run for of in beside)} - {folder.parent.name})
        if folder.name == "results" and others:  # as in a file that was copied into a run's folder
            notes.append(f"{shown(str(path))} holds rows of {shown(', '.join(others))}, as whose they count")
    sheets.sort(key=lambda sheet: sheet.seed or 0)
    if not rows:
        raise UserError(
            "; ".join([f"no result rows in {shown(', '.join(patterns)) or 'nothing'}", *notes]),
            expected="files that evaluate.py wrote",
            remedy="python evaluate.py run=<name>, or name files: 'rows=[\"<glob>\"]'",
        )
    return rows, notes
