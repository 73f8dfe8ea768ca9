"""What a table or a figure of the report shows, as a description: see all_tables.py and all_figures.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

Described = TypeVar("Described", bound="View")


@dataclass(frozen=True, kw_only=True)
class View:
    """Which rows a table or figure shows.

    paper: the published tables (or figures) that stand beside ours.
    role: "main" for ordinary held-out samples, "shift" for shifted ones, "unseen" for unseen classes.
    settings: those that a row must have, as globs. theirs: those of the paper's rows, where they differ.
    ignore: those that may differ inside a cell.
    ablation: shows the usual recipe beside this ablation's variants; "": all runs but those of ablations.
    interpolated: rows at dims between the trained ones: with them, without them, or nothing else.
    """

    name: str
    title: str
    paper: tuple[str, ...] = ()
    evaluations: tuple[str, ...]
    role: str = "main"
    settings: Mapping[str, str | int] = field(default_factory=dict)
    theirs: Mapping[str, str | int] | None = None
    ignore: tuple[str, ...] = ()
    ablation: str = ""
    interpolated: str = "without"


@dataclass(frozen=True, kw_only=True)
class Table(View):
    """A table: `index` and `columns` name columns of the rows, settings, "line" or "metric".

    Where neither names it, "line" comes first in the index: no cell is of several methods.
    """

    metrics: tuple[str, ...]
    index: tuple[str, ...] = ("dim",)
    columns: tuple[str, ...] = ("line",)

    def __post_init__(self) -> None:
        if "line" not in (*self.index, *self.columns):
            object.__setattr__(self, "index", ("line", *self.index))


@dataclass(frozen=True, kw_only=True)
class Figure(View):
    """A figure of metric y against x, the dims or another metric; `series` tells its lines apart.

    joined: the evaluations, or values of `series`, whose points are joined by a line; None: all.
    best: only the points of a line that are better than all its points with a smaller x.
    """

    y: str
    x: str = "dim"
    series: tuple[str, ...] = ("line",)
    joined: tuple[str, ...] | None = None
    best: bool = False


def elsewhere(view: Described, role: str, name: str, title: str, *paper: str) -> Described:
    """Return a view of the same in another role, beside other tables of the paper."""
    return replace(view, role=role, name=name, title=title, paper=paper)


LINEAR = ("linear", "probe", "probe_sgd")  # evaluations that show classifiers beside each other
MRL = {"method": "mrl"}
