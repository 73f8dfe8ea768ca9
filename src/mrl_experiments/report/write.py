"""From result rows to the report's folder: tables, figures and the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mrl_experiments.examples import Sheet
from mrl_experiments.files import atomic_path
from mrl_experiments.limits import require_address_space
from mrl_experiments.locks import acquire
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
from mrl_experiments.report.prepare import faulty, find_rows, repeated_seeds, tidy
from mrl_experiments.vega import FORMS, V8_NEEDS, pictures

CLAIM_WRITERS = {
    ".md": claim_formats.markdown, ".csv": claim_formats.comma_separated, ".tex": claim_formats.latex,
}  # fmt: skip


def write_report(
    rows: str | Sequence[str],
    out: Path,
    runs: Path,
    counterparts: Counterparts,
    forms: Sequence[str] = FORMS,
) -> list[str]:
    """Write tables, figures, index.html and, for the paper's kind of runs, claims; return what to warn of.

    Args:
        rows: globs of files of result rows; examples beside them are shown, too.
        out: the report's folder.
        runs: the folder of the runs, for links.
        counterparts: by our data set, the paper's data set and its names of our splits, or the one of ours
            that it is part of. Runs of other data are not held against the paper's claims.
        forms: of files of figures, some of FORMS.

    Raises:
        UserError: when no row is found, or `out` cannot be written to.
    """
    if forms:
        require_address_space(V8_NEEDS, "drawing figures", "raise it, or leave their files out: figures=[]")
    sheets: list[Sheet] = []
    found, notes = find_rows(rows, sheets)
    plain_strings = pd.option_context("future.infer_string", False)  # Arrow's take a third longer here
    with acquire(out / ".lock", f"writes the report {out}"), plain_strings:
        frame = tidy(found, {name: of["part_of"] for name, of in counterparts.items() if "part_of" in of})
        cells, paper = aggregate(frame), tidy([row for row in published() if row.source.startswith("arXiv")])
        theirs = aggregate(paper)
        drawn = theirs[~theirs.anomaly.str.endswith("not a target")]
        views = [*TABLES, *others(cells, [*TABLES, *FIGURES])]
        tables = [grid for view in views for grid in grids(view, cells, theirs, counterparts)]
        figures = [chart for view in FIGURES for chart in charts(view, cells, drawn, counterparts)]
        of_paper = cells.home.isin({name for name, of in counterparts.items() if "dataset" in of}).any()
        findings = judge(CLAIMS, frame[frame.fault == ""], paper, counterparts) if of_paper else []
        notes += [*faulty(frame), *repeated_seeds(cells)]
        _write_files(out, tables, figures, findings, forms)
        sources = Sources(found, runs, out)
        write_page(out / "index.html", tables, figures, stories(cells), sheets, findings, sources, notes)
        return notes


def _write_files(
    out: Path,
    tables: Sequence[Grid],
    figures: Sequence[Chart],
    findings: Sequence[Finding],
    forms: Sequence[str],
) -> None:
    files: dict[Path, str | bytes] = {out / "tables.md": "\n".join(map(markdown, tables))}
    for grid in tables:
        files |= {out / "tables" / f"{grid.name}{suffix}": form(grid) for suffix, form in WRITERS.items()}
    for suffix, form in CLAIM_WRITERS.items() if findings else ():
        files[out / "tables" / f"claims{suffix}"] = form(findings)
    for chart in figures if forms else ():
        drawn = pictures(chart.spec, forms)
        files |= {out / "figures" / f"{chart.name}.{form}": drawn[form] for form in forms}
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
        if path.suffix in (*WRITERS, *(f".{form}" for form in FORMS)):
            path.unlink()
