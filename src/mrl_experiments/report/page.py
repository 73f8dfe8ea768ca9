"""The report as one page that needs no network: data, style and script inside."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from os.path import exists, relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mrl_experiments.errors import command_line
from mrl_experiments.files import atomic_path
from mrl_experiments.paper import PaperRow
from mrl_experiments.report.cells import Cell
from mrl_experiments.report.claims.claim import Finding
from mrl_experiments.report.claims.formats import HEADINGS, NOTE, counted, record
from mrl_experiments.report.formats import axis, heading, shown
from mrl_experiments.report.metrics import metric, written
from mrl_experiments.report.pivot import Block, Grid
from mrl_experiments.report.series import Chart, Point, Series
from mrl_experiments.results import ResultRow

PARTS = Path(__file__).parent
# No text can open or close an element, or end a line of a script: as JSON escapes it means the same.
INSIDE_HTML = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
SCRIPTS = ("elements.js", "figures.js", "tables.js", "claims.js", "page.js")


@dataclass
class Sources:
    """Where numbers come from, each origin once. page: the page's folder, from which links lead to runs."""

    runs: Path
    page: Path
    seen: dict[Any, int] = field(default_factory=dict)
    listed: list[Any] = field(default_factory=list)

    def of(self, cell: Cell) -> int:
        """Return the number of a cell's origin in the list."""
        first = cell.rows[0]
        if isinstance(first, PaperRow):
            return self._number(
                (first.source, first.anomaly), {"text": first.source, "anomaly": first.anomaly}
            )
        key = tuple((row.run, row.evaluation, row.reduction, row.setting) for row in cell.rows)
        return self._number(key, [self._run(row) for row in cell.rows])

    def _number(self, key: Any, source: Any) -> int:
        if key not in self.seen:
            self.seen[key] = len(self.listed)
            self.listed.append(source)
        return self.seen[key]

    def _run(self, row: ResultRow) -> dict[str, str]:
        config = self.runs / row.run / "config.yaml"
        inside = Path(row.run).name == row.run != ".." and exists(
            config
        )  # rows of others may name any folder
        return {
            "run": row.run,
            "command": command(row),
            "href": quote(relpath(config, self.page)) if inside else "",
        }


def command(row: ResultRow) -> str:
    """Return the command that measured a row."""
    options = {
        "run": row.run, "data": row.dataset, "evaluation": row.evaluation, "reduction": row.reduction,
    }  # fmt: skip
    return command_line("evaluate.py", options | ({"variant": "flip"} if "tta=flip" in row.setting else {}))


def write_page(
    target: Path,
    findings: Sequence[Finding],
    grids: Sequence[Grid],
    charts: Sequence[Chart],
    rows: Sequence[ResultRow],
    notes: list[str],
    runs: Path,
) -> None:
    """Write the page. Numbers link to the runs under `runs` that are still there."""
    sources = Sources(runs, target.parent)
    runs_read = len({row.run for row in rows})
    data = {
        "summary": f"{len(rows):,} measurements of {runs_read} run{'s' if runs_read > 1 else ''},"
        " beside those of arXiv:2205.13147",
        "notes": notes,
        "claims": _claims(findings),
        "charts": [_chart(chart) for chart in charts],
        "tables": [_table(grid, sources) for grid in grids],
        "sources": sources.listed,
        "lines": {
            series.look.key: {"light": series.look.light, "dark": series.look.dark}
            for chart in charts
            for series in chart.series
        },
    }
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.translate(INSIDE_HTML)
    page = _part("page.html")
    for mark, part in (
        ("/*style*/", _part("page.css")),
        ("/*script*/", "".join(map(_part, SCRIPTS))),
        ("/*data*/", text),
    ):
        page = page.replace(mark, part)
    with atomic_path(target) as path:
        path.write_text(page, encoding="utf-8")


def _finite(value: Any) -> Any:
    """Return what JSON can hold: null in place of numbers that are not finite."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _claims(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "counted": counted(findings),
        "note": NOTE,
        "headings": HEADINGS,
        "rows": [
            {
                "cells": record(finding),
                "verdict": finding.verdict,
                **(_place(finding.block) if finding.block else {}),
            }
            for finding in findings
        ],
    }


def _place(block: Block) -> dict[str, str]:
    return {"dataset": block.dataset, "model": block.model, "block": block.title}


def _chart(chart: Chart) -> dict[str, Any]:
    x, y = metric(chart.figure.x), metric(chart.figure.y)
    return {
        **_place(chart.block),
        "id": f"{chart.figure.name}-{chart.block.slug}",
        "folder": "figures",
        "title": chart.figure.title,
        "subtitle": f"{y.label} [{y.unit}] · {chart.block.title}",
        "x": {"key": chart.figure.x, "label": x.label, "unit": x.unit or x.label, "base": chart.base},
        "y": {"label": y.label, "unit": y.unit},
        "series": [_series(series, chart.figure.y) for series in chart.series],
    }


def _series(series: Series, y: str) -> dict[str, Any]:
    return {
        "line": series.look.key,
        "note": series.note,
        "label": series.label,
        "name": series.name,
        "short": series.look.short,
        "marker": series.marker,
        "paper": series.paper,
        "joined": series.joined,
        "points": [_point(point, y) for point in series.points],
    }


def _point(point: Point, name: str) -> dict[str, Any]:
    scale = metric(name).scale
    first = point.cell.rows[0]
    return {
        "x": point.x,
        "y": point.cell.mean * scale,
        "deviation": (point.cell.deviation or 0) * scale,
        "text": written(name, point.cell.mean, point.cell.deviation),
        "dim": point.dim,
        "setting": point.setting,
        "count": point.cell.count,
        "anomaly": first.anomaly if isinstance(first, PaperRow) else "",
    }


def _table(grid: Grid, sources: Sources) -> dict[str, Any]:
    unit = metric(grid.table.metrics[-1]).unit if "metric" not in grid.table.columns else ""
    return {
        **_place(grid.block),
        "id": f"{grid.table.name}-{grid.block.slug}",
        "folder": "tables",
        "title": grid.table.title,
        "subtitle": " · ".join(filter(None, (unit, grid.block.title))),
        "unit": unit,
        "index": [axis(name) for name in grid.table.index],
        "columns": [heading(grid, column) for column in grid.columns],
        "paper": [grid.in_paper(column) for column in grid.columns],
        "rows": [_row(grid, key, sources) for key in grid.index],
    }


def _row(grid: Grid, key: Any, sources: Sources) -> dict[str, Any]:
    return {
        "key": [shown(name, value) for name, value in zip(grid.table.index, key, strict=True)],
        "cells": [
            {
                "ours": _cell(grid.cell(key, column), column.metric, sources),
                "paper": _cell(grid.cell(key, column, paper=True), column.metric, sources),
            }
            for column in grid.columns
        ],
    }


def _cell(cell: Cell | None, name: str, sources: Sources) -> dict[str, Any] | None:
    if cell is None:
        return None
    return {
        "text": cell.fault or written(name, cell.mean, cell.deviation),
        "source": sources.of(cell),
        "values": [written(name, row.value) for row in cell.rows],
    }
