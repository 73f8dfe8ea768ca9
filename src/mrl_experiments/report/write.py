"""From result rows to the report's folder: tables, figures and the page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrl_experiments.files import atomic_path
from mrl_experiments.locks import exclusive
from mrl_experiments.paper import PaperRow, published
from mrl_experiments.report.all_figures import FIGURES
from mrl_experiments.report.all_tables import OTHERS, TABLES, others
from mrl_experiments.report.claims import formats as claim_formats
from mrl_experiments.report.claims.all_claims import CLAIMS
from mrl_experiments.report.claims.claim import Finding, judge
from mrl_experiments.report.entries import Entry, entries, faulty, find_rows
from mrl_experiments.report.formats import comma_separated, latex, markdown
from mrl_experiments.report.metrics import fault
from mrl_experiments.report.page import write_page
from mrl_experiments.report.pivot import Counterparts, Grid, grids
from mrl_experiments.report.plots import SUFFIXES, draw
from mrl_experiments.report.series import charts
from mrl_experiments.report.views import View
from mrl_experiments.results import ResultRow

WRITERS = {".md": markdown, ".csv": comma_separated, ".tex": latex}
CLAIM_WRITERS = {
    ".md": claim_formats.markdown, ".csv": claim_formats.comma_separated, ".tex": claim_formats.latex,
}  # fmt: skip


def write_report(rows: str | Sequence[str], out: Path, runs: Path, counterparts: Counterparts) -> list[str]:
    """Write tables, claims, figures and index.html for all rows that match; return what to warn of.

    runs: the folder of the runs, for links. counterparts: by our data set, the paper's data set and its
    names of our splits, or the one of ours that it is part of.
    Raises UserError when no row is found, or `out` cannot be written to.
    """
    found, notes = find_rows(rows)
    with exclusive(out / ".lock", f"writes the report {out}"):
        return _write(found, notes, out, runs, counterparts)


def _write(
    found: Sequence[ResultRow], notes: Sequence[str], out: Path, runs: Path, counterparts: Counterparts
) -> list[str]:
    ours = entries(found, {name: of["part_of"] for name, of in counterparts.items() if "part_of" in of})
    paper = _by_table()
    drawn = {table: [row for row in values if row.is_target] for table, values in paper.items()}
    described = [*TABLES, *others(ours, [*TABLES, *FIGURES])]
    tables = [grid for table in described for grid in grids(table, ours, _beside(paper, table), counterparts)]
    figures = [
        chart for figure in FIGURES for chart in charts(figure, ours, _beside(drawn, figure), counterparts)
    ]
    _keep_only(out / "tables", [path for grid in tables for path in _write_table(grid, out / "tables")])
    _keep_only(out / "figures", [path for chart in figures for path in draw(chart, out / "figures")])
    _write_summary(tables, out / "tables.md")
    sound = [entry for entry in ours if not fault(entry.row.metric, entry.row.value)]
    findings = judge(CLAIMS, sound, {table: entries(values) for table, values in paper.items()}, counterparts)
    _write_claims(findings, out / "tables")
    warnings = [*notes, *faulty(found), *repeated_seeds(tables)]
    write_page(out / "index.html", findings, tables, figures, found, warnings, runs)
    return warnings


def repeated_seeds(tables: Sequence[Grid]) -> list[str]:
    """Name the tables in which two runs claim one seed: they differ in something that rows don't say."""
    found = []
    for grid in (grid for grid in tables if "run" in grid.table.index):
        runs = {
            row.run for by_metric in grid.ours.values() for cell in by_metric.values() for row in cell.rows
        }
        found.append(
            f"{grid.table.title}, {grid.block.title}: runs with the same seed stand apart,"
            f" {' and '.join(sorted(runs))}; name the files to keep with rows=[...]"
        )
    return sorted(found)


def _by_table() -> Mapping[str, list[PaperRow]]:
    tables: dict[str, list[PaperRow]] = defaultdict(list)
    for row in published():
        if row.source.startswith("arXiv"):  # not the authors' notebooks, whose runs are others
            tables[row.table].append(row)
    return tables


def _beside(paper: Mapping[str, list[PaperRow]], view: View) -> list[Entry]:
    return entries([row for table in view.paper for row in paper[table]])


def _write_table(grid: Grid, folder: Path) -> list[Path]:
    written = []
    for suffix, form in WRITERS.items():
        written.append(folder / f"{grid.table.name}-{grid.block.slug}{suffix}")
        with atomic_path(written[-1]) as path:
            path.write_text(form(grid), encoding="utf-8")
    return written


def _write_claims(findings: Sequence[Finding], folder: Path) -> None:
    for suffix, form in CLAIM_WRITERS.items():
        with atomic_path(folder / f"claims{suffix}") as path:
            path.write_text(form(findings), encoding="utf-8")


def _keep_only(folder: Path, written: Sequence[Path]) -> None:
    """Remove the tables and figures of an earlier report whose rows are gone, and nothing else."""
    names = [OTHERS, *(f"{view.name}-" for view in (*TABLES, *FIGURES))]
    for path in {path for name in names for path in folder.glob(f"{name}*")} - {*written}:
        if path.suffix in (*WRITERS, *SUFFIXES):
            path.unlink()


def _write_summary(tables: Sequence[Grid], target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text("\n".join(markdown(grid) for grid in tables), encoding="utf-8")
