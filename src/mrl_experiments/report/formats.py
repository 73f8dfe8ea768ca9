"""A grid as Markdown, CSV and LaTeX: one column for ours, one for the paper's beside it."""

from collections.abc import Iterator
from math import isnan
from typing import Any

from mrl_experiments.metric_names import MISSING, written
from mrl_experiments.report.aggregate import Column, Grid
from mrl_experiments.text_tables import csv_text, escaped, escaped_markdown, latex_rows, markdown_rows

NUMBERS = {"mean": "", "deviation": " deviation", "count": " runs"}  # of a cell in CSV: what its heading adds


def text(cell: Any | None, column: Column) -> str:
    """Return a cell's number with its deviation, what is wrong with it, or a dash for none."""
    if cell is None:
        return MISSING
    return cell.fault or written(column.metric, cell.mean, None if isnan(cell.deviation) else cell.deviation)


def texts(grid: Grid) -> Iterator[list[str]]:
    """Yield the heading and the rows of a grid as text."""
    yield [*grid.axes, *(grid.heading(column, paper=paper) for column, paper in grid.flat)]
    for row in grid.index:
        cells = (text(grid.cell(row, column, paper=paper), column) for column, paper in grid.flat)
        yield [*grid.keys(row), *cells]


def markdown(grid: Grid) -> str:
    """Return a grid as a Markdown table under its caption; a dash marks what is missing."""
    table = markdown_rows([*texts(grid)], len(grid.axes))
    return f"**{escaped_markdown(grid.caption)}**\n\n{table}\n\n{grid.footnote}\n"


def latex(grid: Grid) -> str:
    """Return a grid as a LaTeX table for the booktabs package."""
    layout = "l" * len(grid.axes) + "r" * len(grid.flat)
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(f'{grid.caption}. {grid.footnote}')}}}"]
    end = [r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*begin, rf"\begin{{tabular}}{{{layout}}}", *latex_rows(texts(grid)), *end])


def comma_separated(grid: Grid) -> str:
    """Return a grid as CSV: values as stored, our deviation and number of runs, nothing where missing."""
    flat = [(*of, name) for of in grid.flat for name in NUMBERS if name == "mean" or not of[1]]

    def number(row: Any, column: Column, paper: bool, name: str) -> str:
        value: Any = getattr(grid.cell(row, column, paper=paper), name, "")
        return "" if value == "" or (name == "deviation" and isnan(value)) else f"{value:.6g}"

    header = [f"{grid.heading(column, paper=paper)}{NUMBERS[name]}" for column, paper, name in flat]
    body = [[*grid.keys(row), *(number(row, *of) for of in flat)] for row in grid.index]
    return csv_text([[*grid.axes, *header], *body])


WRITERS = {".md": markdown, ".csv": comma_separated, ".tex": latex}
