"""A grid as Markdown, CSV and LaTeX: one column for ours, one for the paper's beside it."""

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

from mrl_experiments.metric_names import MISSING, metric, written
from mrl_experiments.report.aggregate import Column, Grid
from mrl_experiments.report.styles import line, note
from mrl_experiments.text_tables import csv_text, escaped, escaped_markdown, latex_rows, markdown_rows

AXES = {
    "dim": "Dims", "line": "Method", "rerank": "Re-rank dims", "shortlist": "Shortlist", "shots": "Shots",
    "direction": "Direction", "pairs": "Pairs", "policy": "Policy", "threshold": "Threshold", "drop": "Drop",
    "copy": "Run",
}  # fmt: skip
NUMBERS = {"mean": "", "deviation": " deviation", "count": " runs"}  # of a cell in CSV: what its heading adds
PAPER_DATA = {"align": "pairs of ALIGN", "wikipedia_books": "Wikipedia and BooksCorpus"}  # others: ImageNet's


def axis(name: str) -> str:
    """Return the heading of an index column."""
    return AXES.get(name, name.replace("_", " "))


def key_texts(names: Sequence[str], key: Sequence[Any]) -> list[str]:
    """Return the values of a row's or a column's key as tables print them."""
    called = {"line": lambda key: line(key).label, "policy": note, "direction": note, "pairs": note}
    return [called.get(name, str)(str(value)) for name, value in zip(names, key, strict=True)]


def heading(grid: Grid, column: Column, *, paper: bool = False) -> str:
    """Return the name of a column: its keys and, where columns differ in it, its metric with the unit."""
    keys = key_texts([name for name in grid.view.columns if name != "metric"], column.key)
    unit = [metric(column.metric).title] if "metric" in grid.view.columns else []
    return " ".join([*keys, *unit, *["(paper)"] * paper])


def caption(grid: Grid) -> str:
    """Say what the table shows, in which unit where its columns do not say it, and of what."""
    unit = "" if "metric" in grid.view.columns else metric(grid.view.metrics[-1]).unit
    return f"{grid.view.title}{f' [{unit}]' * bool(unit)}: {grid.block.title}"


def footnote(grid: Grid) -> str:
    """Say how many runs a grid is of, and what to know of the paper's values in it."""
    counts = sorted({cell.count for cell in grid.ours.values()})
    runs = f"{counts[0]} run" if counts == [1] else f"{'-'.join(map(str, counts))} runs, mean ± deviation"
    named = " and ".join(sorted({PAPER_DATA.get(cell.dataset, "ImageNet") for cell in grid.paper.values()}))
    paper = f" Paper: {named}, its own models." if named else ""
    odd = sorted({cell.anomaly for cell in grid.paper.values()} - {""})
    beware = "".join(f" Beware of the paper's values: {one}." for one in odd)
    return f"{runs}. {MISSING}: not measured.{paper}{beware}"


def text(cell: Any | None, column: Column) -> str:
    """Return a cell's number with its deviation, what is wrong with it, or a dash for none."""
    if cell is None:
        return MISSING
    return cell.fault or written(column.metric, cell.mean, None if isnan(cell.deviation) else cell.deviation)


def columns(grid: Grid) -> list[tuple[Column, bool]]:
    """Return the columns of a written table, ours before the paper's, and whether each is the paper's."""
    return [
        (column, paper) for column in grid.columns for paper in (False, True)[: 1 + grid.in_paper(column)]
    ]


def texts(grid: Grid) -> Iterator[list[str]]:
    """Yield the heading and the rows of a grid as text."""
    flat = columns(grid)
    yield [*map(axis, grid.view.index), *(heading(grid, column, paper=paper) for column, paper in flat)]
    for row in grid.index:
        cells = (text(grid.cell(row, column, paper=paper), column) for column, paper in flat)
        yield [*key_texts(grid.view.index, row), *cells]


def markdown(grid: Grid) -> str:
    """Return a grid as a Markdown table under its caption; a dash marks what is missing."""
    table = markdown_rows([*texts(grid)], len(grid.view.index))
    return f"**{escaped_markdown(caption(grid))}**\n\n{table}\n\n{footnote(grid)}\n"


def latex(grid: Grid) -> str:
    """Return a grid as a LaTeX table for the booktabs package."""
    layout = "l" * len(grid.view.index) + "r" * len(columns(grid))
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{escaped(f'{caption(grid)}. {footnote(grid)}')}}}"]
    end = [r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*begin, rf"\begin{{tabular}}{{{layout}}}", *latex_rows(texts(grid)), *end])


def comma_separated(grid: Grid) -> str:
    """Return a grid as CSV: values as stored, our deviation and number of runs, nothing where missing."""
    flat = [(*of, name) for of in columns(grid) for name in NUMBERS if name == "mean" or not of[1]]

    def number(row: Any, column: Column, paper: bool, name: str) -> str:
        value = getattr(grid.cell(row, column, paper=paper), name, "")
        return "" if value == "" or (name == "deviation" and isnan(value)) else f"{value:.6g}"

    header = [f"{heading(grid, column, paper=paper)}{NUMBERS[name]}" for column, paper, name in flat]
    body = [[*key_texts(grid.view.index, row), *(number(row, *of) for of in flat)] for row in grid.index]
    return csv_text([[*map(axis, grid.view.index), *header], *body])


WRITERS = {".md": markdown, ".csv": comma_separated, ".tex": latex}
