"""A grid as Markdown, CSV and LaTeX: one column for ours, one for the paper's beside it."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mrl_experiments.paper import PaperRow
from mrl_experiments.report.cells import Cell
from mrl_experiments.report.lines import line
from mrl_experiments.report.metrics import MISSING, metric, written
from mrl_experiments.report.pivot import Column, Grid
from mrl_experiments.report.series import note

AXES = {
    "dim": "Size", "line": "Method", "rerank": "Re-rank size", "shortlist": "Shortlist", "shots": "Shots",
    "direction": "Direction", "pairs": "Pairs", "policy": "Policy", "threshold": "Threshold", "drop": "Drop",
}  # fmt: skip
PAPER_DATA = {"align": "pairs of ALIGN", "wikipedia_books": "Wikipedia and BooksCorpus"}  # others: ImageNet's


@dataclass(frozen=True)
class Flat:
    """One column of a written table."""

    column: Column
    label: str
    paper: bool


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


def heading(grid: Grid, column: Column) -> str:
    """Return the name of a column: its keys and, where columns differ in it, its metric."""
    names = [name for name in grid.table.columns if name != "metric"]
    parts = [shown(name, value) for name, value in zip(names, column.key, strict=True)]
    if "metric" in grid.table.columns:
        parts.append(metric(column.metric).label)
    return " ".join(parts)


def columns(grid: Grid) -> list[Flat]:
    """Return the columns of a written table; the paper's only where it has values."""
    flat = []
    for column in grid.columns:
        flat.append(Flat(column, heading(grid, column), False))
        if grid.in_paper(column):
            flat.append(Flat(column, f"{heading(grid, column)} (paper)", True))
    return flat


def caption(grid: Grid) -> str:
    """Say what the table shows, of what, and in which unit."""
    unit = metric(grid.table.metrics[-1]).unit
    note = f" [{unit}]" if unit else ""
    return f"{grid.table.title}{note}: {grid.block.title}"


def markdown(grid: Grid) -> str:
    """Return a grid as a Markdown table under its caption; a dash marks what is missing."""
    header, body = _text(grid)
    rows = [header, ["---"] * len(grid.table.index) + ["---:"] * (len(header) - len(grid.table.index)), *body]
    return f"**{escaped_markdown(caption(grid))}**\n\n{markdown_rows(rows)}\n\n{_footnote(grid)}\n"


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of a Markdown table, escaped."""
    return "\n".join(f"| {' | '.join(map(escaped_markdown, row))} |" for row in rows)


def latex(grid: Grid) -> str:
    """Return a grid as a LaTeX table for the booktabs package."""
    header, body = _text(grid)
    index = len(grid.table.index)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption(grid))}. {escaped(_footnote(grid))}}}",
        rf"\begin{{tabular}}{{{'l' * index}{'r' * (len(header) - index)}}}",
        r"\toprule",
        *_latex_rows([header]),
        r"\midrule",
        *_latex_rows(body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(grid: Grid) -> str:
    """Return a grid as CSV: values as stored, our deviation and number of runs, nothing where missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = [axis(name) for name in grid.table.index]
    for flat in columns(grid):
        header += (
            [flat.label] if flat.paper else [flat.label, f"{flat.label} deviation", f"{flat.label} runs"]
        )
    writer.writerow(map(escaped_csv, header))
    for row in grid.index:
        record = [shown(name, value) for name, value in zip(grid.table.index, row, strict=True)]
        for flat in columns(grid):
            record += _numbers(grid.cell(row, flat.column, paper=flat.paper), flat.paper)
        writer.writerow(map(escaped_csv, record))
    return text.getvalue()


def _numbers(cell: Cell | None, paper: bool) -> list[str]:
    if cell is None:
        return [""] if paper else ["", "", ""]
    deviation = "" if cell.deviation is None else f"{cell.deviation:.6g}"
    return [f"{cell.mean:.6g}"] if paper else [f"{cell.mean:.6g}", deviation, str(cell.count)]


def _text(grid: Grid) -> tuple[list[str], list[list[str]]]:
    flat = columns(grid)
    header = [axis(name) for name in grid.table.index] + [column.label for column in flat]
    body = [
        [shown(name, value) for name, value in zip(grid.table.index, row, strict=True)]
        + [_number(grid.cell(row, column.column, paper=column.paper), column.column) for column in flat]
        for row in grid.index
    ]
    return header, body


def _number(cell: Cell | None, column: Column) -> str:
    return MISSING if cell is None else cell.fault or written(column.metric, cell.mean, cell.deviation)


def _footnote(grid: Grid) -> str:
    counts = sorted({cell.count for by_metric in grid.ours.values() for cell in by_metric.values()})
    runs = f"{counts[0]} run" if counts == [1] else f"{'-'.join(map(str, counts))} runs, mean ± deviation"
    measured = {row.dataset for row in _paper_rows(grid)}
    named = " and ".join(sorted({PAPER_DATA.get(dataset, "ImageNet") for dataset in measured}))
    paper = f" Paper: {named}, its own models." if measured else ""
    beware = "".join(f" Beware of the paper's values: {anomaly}." for anomaly in _anomalies(grid))
    return f"{runs}. {MISSING}: not measured.{paper}{beware}"


def _anomalies(grid: Grid) -> list[str]:
    return sorted({row.anomaly for row in _paper_rows(grid) if row.anomaly})


def _paper_rows(grid: Grid) -> list[PaperRow]:
    cells = [grid.cell(row, column, paper=True) for row in grid.index for column in grid.columns]
    return [row for cell in cells if cell for row in cell.rows if isinstance(row, PaperRow)]


def _latex_rows(rows: list[list[str]]) -> Iterator[str]:
    return (" & ".join(escaped(cell) for cell in row) + r" \\" for row in rows)


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
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
