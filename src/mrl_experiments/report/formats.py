"""A grid as Markdown, CSV and LaTeX: one column for ours, one for the paper's beside it."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

from mrl_experiments.report.aggregate import Column, Grid
from mrl_experiments.report.curves import note
from mrl_experiments.report.metrics import MISSING, metric, written
from mrl_experiments.report.styles import line

AXES = {
    "dim": "Dims", "line": "Method", "rerank": "Re-rank dims", "shortlist": "Shortlist", "shots": "Shots",
    "direction": "Direction", "pairs": "Pairs", "policy": "Policy", "threshold": "Threshold", "drop": "Drop",
    "copy": "Run",
}  # fmt: skip
PAPER_DATA = {"align": "pairs of ALIGN", "wikipedia_books": "Wikipedia and BooksCorpus"}  # others: ImageNet's
FORMULA = re.compile(r"[=+@\t\r-]")  # begins one
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)


def axis(name: str) -> str:
    """Return the heading of an index column."""
    return AXES.get(name, name.replace("_", " "))


def shown(name: str, value: object) -> str:
    """Return a key's value as tables print it."""
    if name == "line":
        return line(str(value)).label
    if name == "policy":
        return note(str(value))
    return str(value).replace("_", " ") if name in ("direction", "pairs") else str(value)


def key_texts(grid: Grid, row: Sequence[Any]) -> list[str]:
    """Return the cells of a row before its numbers."""
    return [shown(name, value) for name, value in zip(grid.view.index, row, strict=True)]


def heading(grid: Grid, column: Column, *, paper: bool = False) -> str:
    """Return the name of a column: its keys and, where columns differ in it, its metric with the unit."""
    names = [name for name in grid.view.columns if name != "metric"]
    parts = [shown(name, value) for name, value in zip(names, column.key, strict=True)]
    unit = [metric(column.metric).title] if "metric" in grid.view.columns else []
    return " ".join([*parts, *unit, *["(paper)"] * paper])


def columns(grid: Grid) -> list[tuple[Column, bool]]:
    """Return the columns of a written table, ours before the paper's, and whether each is the paper's."""
    return [
        (column, paper) for column in grid.columns for paper in (False, True)[: 1 + grid.in_paper(column)]
    ]


def caption(grid: Grid) -> str:
    """Say what the table shows, in which unit where its columns do not say it, and of what."""
    unit = "" if "metric" in grid.view.columns else metric(grid.view.metrics[-1]).unit
    return f"{grid.view.title}{f' [{unit}]' * bool(unit)}: {grid.block.title}"


def text(cell: Any | None, column: Column) -> str:
    """Return a cell's number with its deviation, what is wrong with it, or a dash for none."""
    if cell is None:
        return MISSING
    return cell.fault or written(column.metric, cell.mean, None if isnan(cell.deviation) else cell.deviation)


def texts(grid: Grid) -> Iterator[list[str]]:
    """Yield the heading and the rows of a grid as text."""
    flat = columns(grid)
    yield [*map(axis, grid.view.index), *(heading(grid, column, paper=paper) for column, paper in flat)]
    for row in grid.index:
        cells = (text(grid.cell(row, column, paper=paper), column) for column, paper in flat)
        yield [*key_texts(grid, row), *cells]


def markdown(grid: Grid) -> str:
    """Return a grid as a Markdown table under its caption; a dash marks what is missing."""
    header, *body = texts(grid)
    index = len(grid.view.index)
    rows = [header, ["---"] * index + ["---:"] * (len(header) - index), *body]
    return f"**{escaped_markdown(caption(grid))}**\n\n{markdown_rows(rows)}\n\n{footnote(grid)}\n"


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of a Markdown table, escaped."""
    return "\n".join(f"| {' | '.join(map(escaped_markdown, row))} |" for row in rows)


def latex(grid: Grid) -> str:
    """Return a grid as a LaTeX table for the booktabs package."""
    header, *body = (" & ".join(map(escaped, row)) + r" \\" for row in texts(grid))
    index = len(grid.view.index)
    layout = "l" * index + "r" * len(columns(grid))
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption(grid))}. {escaped(footnote(grid))}}}",
         rf"\begin{{tabular}}{{{layout}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule",
         r"\end{tabular}", r"\end{table}", ""]
    )  # fmt: skip


def comma_separated(grid: Grid) -> str:
    """Return a grid as CSV: values as stored, our deviation and number of runs, nothing where missing."""
    header, flat = [axis(name) for name in grid.view.index], columns(grid)
    for column, paper in flat:
        label = heading(grid, column, paper=paper)
        header += [label] if paper else [label, f"{label} deviation", f"{label} runs"]
    records = [header]
    for row in grid.index:
        record = key_texts(grid, row)
        for column, paper in flat:
            cell = grid.cell(row, column, paper=paper)
            numbers = ("", "", "") if cell is None else (cell.mean, cell.deviation, cell.count)
            mean, deviation, count = (f"{number:.6g}" if number != "" else "" for number in numbers)
            record += [mean] if paper else [mean, "" if deviation == "nan" else deviation, count]
        records.append(record)
    return csv_text(records)


def csv_text(records: Sequence[Sequence[str]]) -> str:
    """Return records as CSV that a spreadsheet takes for no formula."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(
        [escaped_csv(cell) for cell in record] for record in records
    )
    return file.getvalue()


def footnote(grid: Grid) -> str:
    """Say how many runs a grid is of, and what to know of the paper's values in it."""
    counts = sorted({cell.count for cell in grid.ours.values()})
    runs = f"{counts[0]} run" if counts == [1] else f"{'-'.join(map(str, counts))} runs, mean ± deviation"
    theirs = [cell for (row, column), cell in grid.paper.items() if row in grid.index]
    named = " and ".join(sorted({PAPER_DATA.get(cell.dataset, "ImageNet") for cell in theirs}))
    paper = f" Paper: {named}, its own models." if named else ""
    odd = sorted({cell.anomaly for cell in theirs} - {""})
    return f"{runs}. {MISSING}: not measured.{paper}" + "".join(
        f" Beware of the paper's values: {o}." for o in odd
    )


WRITERS = {".md": markdown, ".csv": comma_separated, ".tex": latex}
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
        "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "\n": " ", "\r": " ",
    }
)  # fmt: skip
MARKDOWN = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`|*"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def escaped(text: str) -> str:
    """Return text for LaTeX."""
    # After a row's end, a bracket or a star would be an option of that end.
    return "{}" * text.startswith(("[", "*")) + text.translate(LATEX)


def escaped_markdown(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.translate(MARKDOWN).replace("](", "]\\(")  # no links


def escaped_csv(text: str) -> str:
    """Return text for a CSV file that a spreadsheet does not take for a formula."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
