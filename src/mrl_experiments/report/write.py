"""From result rows to the report's folder: tables, figures and the page."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import vl_convert

from mrl_experiments.files import atomic_path
from mrl_experiments.locks import exclusive
from mrl_experiments.paper import published
from mrl_experiments.report.aggregate import Counterparts, Grid, aggregate, grids
from mrl_experiments.report.all_figures import FIGURES
from mrl_experiments.report.all_tables import OTHERS, TABLES, others
from mrl_experiments.report.claims import formats as claim_formats
from mrl_experiments.report.claims.all_claims import CLAIMS
from mrl_experiments.report.claims.claim import Finding, judge
from mrl_experiments.report.curves import Chart, charts
from mrl_experiments.report.formats import WRITERS, markdown
from mrl_experiments.report.opening import stories
from mrl_experiments.report.page import Sources, write_page
from mrl_experiments.report.prepare import faulty, find_rows, printable, tidy
from mrl_experiments.results import ResultRow

SUFFIXES = (".png", ".svg")
CLAIM_WRITERS = {
    ".md": claim_formats.markdown, ".csv": claim_formats.comma_separated, ".tex": claim_formats.latex,
}  # fmt: skip


def write_report(rows: str | Sequence[str], out: Path, runs: Path, counterparts: Counterparts) -> list[str]:
    """Write tables, figures, index.html and, for the paper's kind of runs, claims; return what to warn of.

    Args:
        rows: globs of files of result rows.
        out: the report's folder.
        runs: the folder of the runs, for links.
        counterparts: by our data set, the paper's data set and its names of our splits, or the one of ours
            that it is part of. Runs of other data are not held against the paper's claims.

    Raises:
        UserError: when no row is found, or `out` cannot be written to.
    """
    found, notes = find_rows(rows)
    plain_strings = pd.option_context("future.infer_string", False)  # Arrow's take a third longer here
    with exclusive(out / ".lock", f"writes the report {out}"), plain_strings:
        return _write(found, notes, out, runs, counterparts)


def _write(
    found: Sequence[ResultRow], notes: Sequence[str], out: Path, runs: Path, counterparts: Counterparts
) -> list[str]:
    frame = tidy(found, {name: of["part_of"] for name, of in counterparts.items() if "part_of" in of})
    cells = aggregate(frame)
    views = [*TABLES, *others(cells, [*TABLES, *FIGURES])]
    tables = [grid for view in views for grid in grids(view, cells, _paper(view.paper), counterparts)]
    figures = [
        c for view in FIGURES for c in charts(view, cells, _paper(view.paper, drawn=True), counterparts)
    ]
    of_paper = cells.home.isin({name for name, of in counterparts.items() if "dataset" in of}).any()
    theirs = {table: _published((table,)) for claim in CLAIMS for table in claim.paper}
    findings = judge(CLAIMS, frame[frame.fault == ""], theirs, counterparts) if of_paper else []
    warnings = [*notes, *faulty(frame), *repeated_seeds(cells)]
    _write_files(out, tables, figures, findings)
    sources = Sources(found, runs, out)
    write_page(out / "index.html", tables, figures, stories(cells), findings, sources, warnings)
    return warnings


def repeated_seeds(cells: pd.DataFrame) -> list[str]:
    """Name the runs that claim one seed: they differ in something that rows don't say, and stand apart."""
    apart = cells[cells["copy"] != ""].groupby(["home", "model", "line", "evaluation"])
    return [
        printable(f"{' and '.join(sorted({*group['copy']}))} have the same seed and differ ({evaluation} of"
                  f" {line}, {home}): they stand apart; name the files to keep with rows=[...]")
        for (home, _, line, evaluation), group in apart
    ]  # fmt: skip


_all_published = cache(published)


def _published(tables: tuple[str, ...], *, drawn: bool = False) -> pd.DataFrame:
    """Return the paper's values of some tables; not the authors' notebooks, whose runs are others."""
    rows = [row for row in _all_published() if row.table in tables and row.source.startswith("arXiv")]
    return tidy([row for row in rows if row.is_target or not drawn])


@cache
def _paper(tables: tuple[str, ...], *, drawn: bool = False) -> pd.DataFrame:
    return aggregate(_published(tables, drawn=drawn))


def _write_files(
    out: Path, tables: Sequence[Grid], figures: Sequence[Chart], findings: Sequence[Finding]
) -> None:
    files: dict[Path, str | bytes] = {out / "tables.md": "\n".join(map(markdown, tables))}
    for grid in tables:
        files |= {out / "tables" / f"{grid.name}{suffix}": form(grid) for suffix, form in WRITERS.items()}
    for suffix, form in CLAIM_WRITERS.items() if findings else ():
        files[out / "tables" / f"claims{suffix}"] = form(findings)
    for chart in figures:
        place = out / "figures" / chart.name
        files[place.with_name(f"{chart.name}.png")] = vl_convert.vegalite_to_png(chart.spec, scale=2)
        files[place.with_name(f"{chart.name}.svg")] = vl_convert.vegalite_to_svg(chart.spec)
    for path, content in files.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    _keep_only(out, files)


def _keep_only(out: Path, written: Mapping[Path, object]) -> None:
    """Remove the tables and figures of an earlier report whose rows are gone, and nothing else."""
    names = [OTHERS, "claims.", *(f"{view.name}-" for view in (*TABLES, *FIGURES))]
    found = {
        path for part in ("tables", "figures") for name in names for path in (out / part).glob(f"{name}*")
    }
    for path in found - {*written}:
        if path.suffix in (*WRITERS, *SUFFIXES):
            path.unlink()
