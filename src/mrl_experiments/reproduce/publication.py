"""A small folder to keep: rows, tables and figures of a plan's runs, with the command that made them."""

import os
import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from hydra import compose

from mrl_experiments.examples import read_sheets, write_sheets
from mrl_experiments.report.write import write_report
from mrl_experiments.reproduce.plan import Chain
from mrl_experiments.results import read_rows, write_rows

PACKAGES = ("torch", "timm", "pytorch-lightning", "faiss-cpu", "scikit-learn")


def publish(plan: Sequence[Chain], root: Path, out: Path, command: str) -> list[str]:
    """Write rows/, tables.md, claims.*, figures/*.png and README.md to `out`; return the report's warnings.

    Examples lie beside the rows. The whole report, with its page, goes to `root`/report.
    """
    rows = {  # read before the old ones go: a damaged file ends it here
        chain.run.name: [
            row for path in sorted(chain.run.folder.glob("results/*.csv")) for row in read_rows(path)
        ]
        for chain in plan
    }
    for part in ("rows", "figures"):
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part).mkdir(parents=True)
    for name, measured in rows.items():
        if measured:
            write_rows(out / "rows" / f"{name}.csv", measured)
    counterparts = compose("report").counterparts
    for chain in plan:
        paths = sorted(chain.run.folder.glob("results/*.csv"))
        if sheets := [sheet for path in paths for sheet in read_sheets(path)]:
            write_sheets(out / "rows" / f"{chain.run.name}.csv", sheets)
    warnings = write_report([f"{out}/rows/*.csv"], root / "report", root / "runs", counterparts)
    for picture in (root / "report" / "figures").glob("*.png"):
        shutil.copy(picture, out / "figures")
    for part in ("tables.md", "tables/claims.md", "tables/claims.csv"):
        (out / Path(part).name).unlink(missing_ok=True)
        if (root / "report" / part).exists():  # claims only beside data of the paper
            shutil.copy(root / "report" / part, out)
    (out / "README.md").write_text(_described(command), encoding="utf-8")
    return warnings


def _described(command: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Made by `{command}`, finished on {datetime.now(UTC).date()}: Python {platform.python_version()},"
        f" {versions}; {os.cpu_count()} cores ({platform.machine()}).\n\n"
        "claims.md, where there is one, tells which of the paper's claims hold here, [tables.md](tables.md)"
        " shows our values beside the paper's, `figures/` the same as curves; `rows/` holds the rows of each"
        " run."
        " `python report.py 'rows=[\"<this folder>/rows/*.csv\"]'` makes the page from them.\n"
    )
