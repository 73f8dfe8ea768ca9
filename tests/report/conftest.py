"""The rows of an imaginary study, and the report made of them once."""

from pathlib import Path

import pytest
from study_rows import sheet, study

from mrl_experiments.examples import write_sheets
from mrl_experiments.report.write import write_report
from mrl_experiments.results import ResultRow, write_rows

COUNTERPARTS = {
    "kanji1k": {"dataset": "imagenet1k", "splits": {"display": "r", "bitmap": "a"}},
    "kanji4k": {"dataset": "imagenet4k"},
}


@pytest.fixture(scope="session")
def rows() -> list[ResultRow]:
    return study()


@pytest.fixture(scope="session")
def report(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    for run in {row.run for row in rows}:
        write_rows(runs / run / "results" / "all.csv", [row for row in rows if row.run == run])
        (runs / run / "config.yaml").write_text("seed: 0\n")
    for seed in (1, 0):  # the page shows the first
        run = f"mrl_resnet10t_kanji1k_s{seed}"
        write_sheets(
            runs / run / "results" / "all.csv", [sheet(run, seed=seed), sheet(run, "mrl_e", seed=seed)]
        )
    assert write_report([f"{runs}/*/results/*.csv"], folder / "report", runs, COUNTERPARTS, []) == []
    return folder / "report"
