"""The folder that report.py writes."""

import resource

import pytest
from commands import run
from study_rows import study

from mrl_experiments.report.write import FORMS, write_report
from mrl_experiments.results import write_rows


def test_every_table_has_three_forms(report):
    tables = {path.stem for path in (report / "tables").iterdir()}
    assert {"table01-kanji1k-val-resnet10t", "table10-kanji4k-query-resnet10t"} <= tables
    for name in tables:
        for suffix in (".md", ".csv", ".tex"):
            assert (report / "tables" / f"{name}{suffix}").stat().st_size


def test_the_command_reads_rows_alone_is_quick_and_opens_the_page(tmp_path, monkeypatch):
    write_rows(tmp_path / "study.csv", study(seeds=(0,)))
    monkeypatch.setenv("BROWSER", f"sh -c 'echo %s > {tmp_path}/opened'")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("report.py", f"rows=[{tmp_path}/*.csv]", f"out={tmp_path}/out", "figures=[svg]", "open=true")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    # Of a processor, not of the clock: tests run side by side.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 30
    assert (tmp_path / "opened").read_text().strip() == (tmp_path / "out" / "index.html").as_uri()
    assert {path.suffix for path in (tmp_path / "out" / "figures").iterdir()} == {".svg"}


@pytest.mark.slow
def test_a_second_report_leaves_nothing_of_the_first_and_figures_have_three_forms(tmp_path):
    for evaluation in ("linear", "knn"):
        rows = [row for row in study(seeds=(0,)) if row.evaluation == evaluation]
        write_rows(tmp_path / "study.csv", rows)
        write_report([f"{tmp_path}/*.csv"], tmp_path / "out", tmp_path, {})
    assert {path.name[:7] for path in (tmp_path / "out" / "tables").glob("table*")} == {"table02", "table05"}
    (png, svg, pdf) = sorted(
        (tmp_path / "out" / "figures").iterdir(), key=lambda path: FORMS.index(path.suffix[1:])
    )
    assert {path.stem for path in (png, svg, pdf)} == {"figure03-kanji1k-val-resnet10t"}
    assert png.read_bytes().startswith(b"\x89PNG") and pdf.read_bytes().startswith(b"%PDF")
    assert "</svg>" in svg.read_text()


def test_without_rows_the_command_says_what_to_do(tmp_path):
    result = run("report.py", f"rows=[{tmp_path}/*.csv]", f"out={tmp_path}/out")
    assert result.returncode == 2
    assert "no result rows" in result.stderr
    assert "Traceback" not in result.stderr
