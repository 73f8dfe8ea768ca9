"""The report as one page that needs no network: data, style and scripts inside."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from os.path import exists, relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from mrl_experiments.errors import UserError
from mrl_experiments.examples import Sheet
from mrl_experiments.metric_names import written
from mrl_experiments.next_commands import data_options, next_command
from mrl_experiments.report.aggregate import Block, Column, Grid
from mrl_experiments.report.claims.claim import Finding
from mrl_experiments.report.claims.formats import HEADINGS, NOTE, counted, record
from mrl_experiments.report.curves import Chart
from mrl_experiments.report.formats import WRITERS, text
from mrl_experiments.report.opening import Story
from mrl_experiments.report.styles import key_of, line
from mrl_experiments.results import ResultRow
from mrl_experiments.runs import Run
from mrl_experiments.vega import vega_bundle

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
        self.places: dict[tuple[str, str, str], int] = {}
        self._source_of, self._place_of = cache(self._source), cache(self._place)

    def of(self, number: int, metric: str) -> list[Any]:
        """Return the place of a row's run and command in the list, and the value as written."""
        row = self.rows[number]
        variant = row.split.partition("@")[2]  # other views or weights
        key = self._source_of(row.run, row.dataset, row.evaluation, row.reduction, variant)
        value = row.value * (1e-6 if metric.endswith("MFLOPs") else 1.0)
        return [self.places.setdefault(key, len(self.places)), written(metric, value)]

    def _source(self, run: str, dataset: str, evaluation: str, reduction: str, variant: str) -> Any:
        """Return a run, the command that measured it, and a link to it."""
        link, home = self._place_of(run)
        options = {"run": run, **data_options(dataset, home), "evaluation": evaluation}
        options |= {"reduction": reduction, **({"variant": variant} if variant else {})}
        return run, next_command("evaluate.py", self.runs.parent, options), link

    def _place(self, run: str) -> tuple[str, str | None]:
        """Return a link to a run and the data set it was trained on; "" and None where it is not here."""
        config = self.runs / run / "config.yaml"
        if Path(run).name != run or run == ".." or not exists(config):  # rows of others may name any folder
            return "", None
        home = None
        with suppress(UserError):
            home = str(Run(self.runs / run).config.data.name)
        return quote(relpath(config, self.page)), home


def page(
    shown: Iterable[Story | Sheet | Chart | Grid], findings: list[Finding], sources: Sources, notes: list[str]
) -> str:
    """Return the page of what is shown, in the order of its sections; of examples the first of each kind."""
    # By section, name and title of a card: a block, what else tells it from others, its name, what is shown.
    cards: dict[tuple[str, str, str], list[tuple[Block, str, str, Any]]] = defaultdict(list)
    for number, part in enumerate(shown):
        match part:
            case Story():
                data: Any = {"sentences": part.sentences, "specs": part.specs}
                card = ("stories", "how-few-dims", "In three sentences")
                cards[card].append((part.block, part.measure, f"story-{number}", data))
            case Sheet():
                block = Block(part.dataset, part.split, part.model, "")
                label = line(key_of(part.method, part.reduction, "knn", part.label)).label
                card = ("examples", "neighbours", "Neighbours, funnels and confusions")
                if (block, label) not in (known[:2] for known in cards[card]):
                    cards[card].append((block, label, f"examples-{number}", asdict(part.examples)))
            case Chart() | Grid():
                kind = "figures" if isinstance(part, Chart) else "tables"
                data = part.spec if isinstance(part, Chart) else _table(part, sources)
                cards[kind, part.view.name, part.view.title].append(
                    (part.block, "", part.block.named(part.view), data)
                )
    loader = PackageLoader("mrl_experiments.report", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html").render(
        vega=Markup(vega_bundle()), rows=len(sources.rows), runs=len({row.run for row in sources.rows}),
        sections=SECTIONS, cards=cards, notes=notes, claims=findings, record=record,
        counted=counted(findings), claims_note=NOTE, headings=HEADINGS, sources=[*sources.places],
    )  # fmt: skip


def _table(grid: Grid, sources: Sources) -> Mapping[str, Any]:
    def cell(row: Any, column: Column) -> Mapping[str, Any]:
        ours, theirs = grid.cell(row, column), grid.cell(row, column, paper=True)
        shown: dict[str, Any] = {"t": text(ours, column)}
        if ours is not None:
            shown["s"] = [sources.of(number, column.metric) for number in ours.numbers]
        if (column, True) in grid.flat:
            shown["p"] = text(theirs, column)
        if theirs is not None:
            shown["q"] = theirs.source + (f"; beware: {theirs.anomaly}" if theirs.anomaly else "")
        return shown

    header = [*grid.axes, *(grid.heading(column) for column in grid.columns)]
    rows = [[*grid.keys(row), *(cell(row, column) for column in grid.columns)] for row in grid.index]
    said = {"title": grid.caption, "note": grid.footnote, "keys": len(grid.axes), "header": header}
    return said | {"rows": rows} | {suffix[1:]: form(grid) for suffix, form in WRITERS.items()}
