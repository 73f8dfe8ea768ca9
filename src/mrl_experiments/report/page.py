"""The report as one page that needs no network: data, style and scripts inside."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from os.path import exists, relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from mrl_experiments.errors import UserError
from mrl_experiments.examples import Sheet
from mrl_experiments.files import atomic_path
from mrl_experiments.next_commands import data_options, next_command
from mrl_experiments.report.aggregate import Block, Column, Grid
from mrl_experiments.report.claims.claim import Finding
from mrl_experiments.report.claims.formats import HEADINGS, NOTE, counted, record
from mrl_experiments.report.curves import Chart
from mrl_experiments.report.formats import WRITERS, axis, caption, footnote, heading, key_texts, text
from mrl_experiments.report.metrics import written
from mrl_experiments.report.opening import Story
from mrl_experiments.report.styles import key_of, labelled, line
from mrl_experiments.results import ResultRow
from mrl_experiments.runs import Run

# No text can open or close an element, or end a line of a script: as JSON escapes it means the same.
INSIDE_HTML = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
SECTIONS = (
    ("stories", "How few dims do I need?", ""),
    ("examples", "What few dims see",
     "✓ and a solid frame: of the query’s class. ✗ and a dashed frame: of another one. Of several seeds, the"
     " first. Queries of all kinds take turns, so they say nothing of how often each occurs."),
    ("figures", "Figures",
     "Point at a mark to read it. Click a name in the legend to see it alone, with Shift several."
     " Drag to move, Shift and wheel to zoom. Filled marks and solid lines are measured here, hollow and"
     " dashed ones published."),
    ("tables", "Tables",
     "Mean ± deviation over runs (of a single run, over its own splits or draws); below it, the"
     " paper’s value. Choose a number to see its runs and the command that made it. – means not measured,"
     " ! that the published value is odd."),
)  # fmt: skip


class Sources:
    """Where numbers come from, each run and command once. page: the folder from which links lead to runs."""

    def __init__(self, rows: Sequence[ResultRow], runs: Path, page: Path) -> None:
        self.rows, self.runs, self.page = rows, runs, page
        self.places: dict[tuple[str, ...], int] = {}
        self._command_of, self._home_of = cache(self._command), cache(self._home)

    def of(self, number: int, metric: str) -> list[Any]:
        """Return the place of a row's run and command in the list, and the value as written."""
        row = self.rows[number]
        variant = row.split.partition("@")[2]  # other views or weights
        key = self._command_of(row.run, row.dataset, row.evaluation, row.reduction, variant)
        scale = 1e-6 if metric.endswith("MFLOPs") else 1.0
        return [self.places.setdefault(key, len(self.places)), written(metric, row.value * scale)]

    def _command(
        self, run: str, dataset: str, evaluation: str, reduction: str, variant: str
    ) -> tuple[str, ...]:
        """Return a run, the command that measured it, and where a link to it leads."""
        options = {"run": run, **data_options(dataset, self._home_of(run)), "evaluation": evaluation}
        more = {"reduction": reduction, **({"variant": variant} if variant else {})}
        return run, next_command("evaluate.py", self.runs.parent, options | more), self._link(run)

    def _home(self, run: str) -> str | None:
        """Return the data set that a run was trained on, None where the run is not here."""
        with suppress(UserError):
            return str(Run(self.runs / run).config.data.name) if self._link(run) else None
        return None

    def _link(self, run: str) -> str:
        config = self.runs / run / "config.yaml"
        inside = Path(run).name == run != ".." and exists(config)  # rows of others may name any folder
        return quote(relpath(config, self.page)) if inside else ""


@dataclass(frozen=True)
class Item:
    """What a card of the page shows of one block. shown: its name in the list of choices."""

    kind: str
    card: str
    id: str
    title: str
    block: Block
    shown: str
    data: Mapping[str, Any]


def write_page(
    target: Path,
    grids: Sequence[Grid],
    charts: Sequence[Chart],
    stories: Sequence[Story],
    sheets: Sequence[Sheet],
    findings: Sequence[Finding],
    sources: Sources,
    notes: Sequence[str],
) -> None:
    """Write the page. Findings are shown where there are any; numbers link to runs that are still there."""
    items = [
        *(Item("stories", "how-few-dims", f"story-{number}", "In three sentences", story.block,
               f"{story.block.title} · {story.measure}",
               {"sentences": story.sentences, "specs": story.specs}) for number, story in enumerate(stories)),
        *_examples(sheets),
        *(Item("figures", c.view.name, c.name, c.view.title, c.block, c.block.title, c.spec) for c in charts),
        *(Item("tables", g.view.name, g.name, g.view.title, g.block, g.block.title, _table(g, sources))
          for g in grids),
    ]  # fmt: skip
    cards: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        cards.setdefault(item.kind, {}).setdefault(item.card, []).append(item)
    rows, runs = len(sources.rows), len({row.run for row in sources.rows})
    package = PackageLoader("mrl_experiments.report", ".")
    environment = Environment(loader=package, autoescape=True, trim_blocks=True)
    environment.filters["json"] = _json
    page = environment.get_template("page.html").render(
        vega=Markup(vega_bundle()), summary=f"{rows:,} measurements of {runs} run{'s' * (runs > 1)}",
        sections=SECTIONS, cards=cards, items=items, notes=notes, claims=findings, record=record,
        counted=counted(findings), claims_note=NOTE, headings=HEADINGS, sources=[*sources.places],
    )  # fmt: skip
    with atomic_path(target) as path:
        path.write_text(page, encoding="utf-8")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;"))


def _json(value: Any) -> Markup:
    dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(dumped.translate(INSIDE_HTML))


def _examples(sheets: Sequence[Sheet]) -> Iterator[Item]:
    """Yield the examples of each line, data set and model: those of the first seed."""
    first: dict[tuple[str, Block], Sheet] = {}
    for sheet in sorted(sheets, key=lambda sheet: sheet.seed or 0):
        key = labelled(key_of(sheet.method, sheet.reduction, "knn"), sheet.label)
        first.setdefault((line(key).label, Block(sheet.dataset, sheet.split, sheet.model, "")), sheet)
    title = "Neighbours, funnels and confusions"
    for number, ((label, block), sheet) in enumerate(first.items()):
        name, shown = f"examples-{number}", f"{block.title} · {label}"
        yield Item("examples", "neighbours", name, title, block, shown, asdict(sheet.examples))


def _table(grid: Grid, sources: Sources) -> Mapping[str, Any]:
    def cell(row: Any, column: Column) -> Mapping[str, Any]:
        ours, theirs = grid.cell(row, column), grid.cell(row, column, paper=True)
        shown: dict[str, Any] = {"t": text(ours, column)}
        if ours is not None:
            shown["s"] = [sources.of(number, column.metric) for number in ours.numbers]
        if grid.in_paper(column):
            shown["p"] = text(theirs, column)
        if theirs is not None:
            shown["q"] = theirs.source + (f"; beware: {theirs.anomaly}" if theirs.anomaly else "")
        return shown

    return {
        "title": caption(grid),
        "note": footnote(grid),
        "keys": len(grid.view.index),
        "header": [*map(axis, grid.view.index), *(heading(grid, column) for column in grid.columns)],
        "rows": [
            [*key_texts(grid, row), *(cell(row, column) for column in grid.columns)] for row in grid.index
        ],
        **{suffix[1:]: form(grid) for suffix, form in WRITERS.items()},
    }
