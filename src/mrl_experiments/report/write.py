"""From result rows to the report's folder: tables, figures and the page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mrl_experiments.examples import Sheet
from mrl_experiments.files import atomic_path
from mrl_experiments.limits import require_address_space
from mrl_experiments.locks import acquire
from mrl_experiments.paper import published
from mrl_experiments.report.aggregate import Counterparts, aggregate, grids
from mrl_experiments.report.all_figures import FIGURES
from mrl_experiments.report.all_tables import OTHERS, TABLES, others
from mrl_experiments.report.claims import formats as claims
from mrl_experiments.report.claims.all_claims import CLAIMS
from mrl_experiments.report.claims.claim import judge
from mrl_experiments.report.curves import charts
from mrl_experiments.report.formats import WRITERS, markdown
from mrl_experiments.report.opening import stories
from mrl_experiments.report.page import Sources, page
from mrl_experiments.report.prepare import faulty, repeated_seeds, tidy
from mrl_experiments.result_files import find_rows
from mrl_experiments.vega import FORMS, V8_NEEDS, pictures

CLAIMED = {".md": claims.markdown, ".csv": claims.comma_separated, ".tex": claims.latex}
OURS = (OTHERS, "claims.", *(f"{view.name}-" for view in (*TABLES, *FIGURES)))  # begin the names of files


def write_report(
    rows: str | Sequence[str], out: Path, runs: Path, counterparts: Counterparts, forms: Sequence[str] = FORMS
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
        like = frame[frame.home.isin({name for name, of in counterparts.items() if "dataset" in of})]
        findings = judge(CLAIMS, like[like.fault == ""], paper, counterparts) if len(like) else []
        notes += [*faulty(frame), *repeated_seeds(cells)]
        files: dict[str, str | bytes] = {"tables.md": "\n".join(map(markdown, tables))}
        for grid in tables:
            stem = f"tables/{grid.block.named(grid.view)}"
            files |= {f"{stem}{end}": form(grid) for end, form in WRITERS.items()}
        files |= {f"tables/claims{end}": form(findings) for end, form in CLAIMED.items() if findings}
        for chart in figures:
            stem, drawn_in = f"figures/{chart.block.named(chart.view)}", pictures(chart.spec, forms)
            files |= {f"{stem}.{form}": picture for form, picture in drawn_in.items()}
        sources = Sources(found, runs, out)
        files["index.html"] = page([*stories(cells), *sheets, *figures, *tables], findings, sources, notes)
        for name, content in files.items():
            with atomic_path(out / name) as temporary:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        # Tables and figures of an earlier report whose rows are gone, and nothing else.
        for path in {*out.glob("tables/*"), *out.glob("figures/*")} - {out / name for name in files}:
            if path.name.startswith(OURS) and path.suffix[1:] in ("md", "csv", "tex", *FORMS):
                path.unlink()
    return notes
