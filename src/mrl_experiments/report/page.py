"""The report as one page that needs no network: data, style and scripts inside."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from os.path import exists, relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path
from mrl_experiments.next_commands import data_options, next_command
from mrl_experiments.report.aggregate import Block, Grid
from mrl_experiments.report.claims.claim import Finding
from mrl_experiments.report.claims.formats import HEADINGS, NOTE, counted, record
from mrl_experiments.report.curves import Chart
from mrl_experiments.report.formats import (
    WRITERS,
    axis,
    caption,
    footnote,
    heading,
    key_texts,
    text,
)
from mrl_experiments.report.metrics import written
from mrl_experiments.report.opening import Story
from mrl_experiments.results import ResultRow
from mrl_experiments.runs import Run

# No text can open or close an element, or end a line of a script: as JSON escapes it means the same.
INSIDE_HTML = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
HINTS = {
    "figures": "Point at a mark to read it. Click a name in the legend to see it alone, with Shift several."
    " Drag to move, Shift and wheel to zoom. Filled marks and solid lines are measured here, hollow and"
    " dashed ones published.",
    "tables": "Mean ± deviation over runs (of a single run, over its own splits or draws); below it, the"
    " paper’s value. Choose a number to see its runs and the command that made it. – means not measured,"
    " ! that the published value is odd.",
}
CARDS = {"figures": "Figures", "tables": "Tables"}


class Sources:
    """Where numbers come from, each run and command once. page: the folder from which links lead to runs."""

    def __init__(self, rows: Sequence[ResultRow], runs: Path, page: Path) -> None:
        self.rows, self.runs, self.page = rows, runs, page
        self.places: dict[tuple[str, str], int] = {}
        self.listed: list[tuple[str, str, str]] = []
        self.homes: dict[str, str | None] = {}

    def of(self, number: int, metric: str) -> list[Any]:
        """Return the place of a row's run and command in the list, and the value as written."""
        row = self.rows[number]
        options = {
            "run": row.run,
            **data_options(row.dataset, self._home(row.run)),
            "evaluation": row.evaluation,
            "reduction": row.reduction,
        }
        variant = row.split.partition("@")[2]  # other views or weights
        command = next_command(
            "evaluate.py", self.runs.parent, options | ({"variant": variant} if variant else {})
        )
        key = (row.run, command)
        if key not in self.places:
            self.places[key] = len(self.listed)
            self.listed.append((*key, self._link(row.run)))
        scale = 1e-6 if metric.endswith("MFLOPs") else 1.0
        return [self.places[key], written(metric, row.value * scale)]

    def _home(self, run: str) -> str | None:
        """Return the data set that a run was trained on, None where the run is not here."""
        if run not in self.homes:
            self.homes[run] = None
            with suppress(UserError):
                self.homes[run] = str(Run(self.runs / run).config.data.name) if self._link(run) else None
        return self.homes[run]

    def _link(self, run: str) -> str:
        config = self.runs / run / "config.yaml"
        inside = Path(run).name == run != ".." and exists(config)  # rows of others may name any folder
        return quote(relpath(config, self.page)) if inside else ""


def write_page(
    target: Path,
    grids: Sequence[Grid],
    charts: Sequence[Chart],
    stories: Sequence[Story],
    findings: Sequence[Finding],
    sources: Sources,
    notes: Sequence[str],
) -> None:
    """Write the page. Findings are shown where there are any; numbers link to runs that are still there."""
    tables = [_item(grid.name, grid.view.title, grid.block, _table(grid, sources)) for grid in grids]
    figures = [_item(chart.name, chart.view.title, chart.block, chart.spec) for chart in charts]
    told = [
        _item(
            f"story-{number}",
            "",
            story.block,
            {"sentences": story.sentences, "specs": story.specs},
            story.measure,
        )
        for number, story in enumerate(stories)
    ]
    groups = {"figures": _grouped(charts, figures), "tables": _grouped(grids, tables)}
    everything = [*tables, *figures, *told]
    rows, runs = len(sources.rows), len({row.run for row in sources.rows})
    claims = [
        {"cells": record(f), "verdict": f.verdict, "dataset": f.block.dataset if f.block else "",
         "model": f.block.model if f.block else ""}
        for f in findings
    ]  # fmt: skip
    page = _environment().get_template("page.html").render(
        style=Markup(_part("page.css")), script=Markup(_part("page.js")), vega=Markup(vega_bundle()),
        summary=f"{rows:,} measurements of {runs} run{'s' * (runs > 1)}",
        datasets=sorted({item["dataset"] for item in everything}),
        models=sorted({item["model"] for item in everything}),
        has_paper=bool(findings), stories=told, notes=notes, claims=claims, counted=counted(findings),
        claims_note=NOTE, headings=HEADINGS, sources=_json({"runs": sources.listed}),
        sections=[(kind, CARDS[kind], HINTS[kind], found) for kind, found in groups.items()],
    )  # fmt: skip
    with atomic_path(target) as path:
        path.write_text(page, encoding="utf-8")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;"))


def _environment() -> Environment:
    return Environment(loader=PackageLoader("mrl_experiments.report", "."), autoescape=True, trim_blocks=True)


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(value: Any) -> Markup:
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(dumped.translate(INSIDE_HTML))


def _item(name: str, title: str, block: Block, data: Any, measure: str = "") -> dict[str, Any]:
    shown = f"{block.title} · {measure}" if measure else block.title
    return {"id": name, "title": title, "block": shown, "dataset": block.dataset, "model": block.model,
            "data": _json(data)}  # fmt: skip


def _grouped(made: Iterable[Chart | Grid], items: Sequence[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Return one card for each description, in order, with an item for each of its blocks."""
    pairs = zip(made, items, strict=True)
    grouped = groupby(pairs, key=lambda pair: pair[0].view.name)
    found = [(name, [item for _, item in group]) for name, group in grouped]
    return [{"name": name, "title": group[0]["title"], "items": group} for name, group in found]


def _table(grid: Grid, sources: Sources) -> dict[str, Any]:
    return {
        "title": caption(grid),
        "note": footnote(grid),
        "keys": len(grid.view.index),
        "header": [*map(axis, grid.view.index), *(heading(grid, column) for column in grid.columns)],
        "rows": [
            [*key_texts(grid, row), *(_cell(grid, row, c, sources) for c in grid.columns)]
            for row in grid.index
        ],
        **{suffix[1:]: form(grid) for suffix, form in WRITERS.items()},
    }


def _cell(grid: Grid, row: Any, column: Any, sources: Sources) -> dict[str, Any]:
    ours, theirs = grid.cell(row, column), grid.cell(row, column, paper=True)
    shown: dict[str, Any] = {"t": text(ours, column)}
    if ours is not None:
        shown["s"] = [sources.of(number, column.metric) for number in ours.numbers]
    if grid.in_paper(column):
        shown["p"] = text(theirs, column)
    if theirs is not None:
        shown["q"] = theirs.source + (f"; beware: {theirs.anomaly}" if theirs.anomaly else "")
    return shown
