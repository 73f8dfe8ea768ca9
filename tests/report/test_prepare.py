"""Which rows belong to which line."""

import dataclasses

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.paper import published
from mrl_experiments.report.prepare import tidy, values
from mrl_experiments.result_files import find_rows
from mrl_experiments.results import ResultRow

ROW = ResultRow(
    run="ff", method="ff", model="m", dataset="d", split="val", evaluation="knn", reduction="prefix", dim=64,
    trained=True, setting={"k": 1}, metric="top1", value=0.5, seed=0,
)  # fmt: skip


def changed(**values: object) -> ResultRow:
    return dataclasses.replace(ROW, **values)


def lines_at(rows: list[ResultRow]) -> dict[tuple[str, int], str]:
    frame = tidy(rows)
    return dict(zip(zip(frame.line, frame.dim, strict=True), frame.run, strict=True))


def test_the_ff_line_has_the_run_trained_at_each_size():
    rows = [
        changed(),
        changed(dim=8, trained=False),
        changed(run="ff_8", dim=8),
        changed(run="ff_8", dim=64, trained=False),
    ]
    assert lines_at(rows) == {
        ("ff", 64): "ff",
        ("ff", 8): "ff_8",
        ("ff_prefix", 64): "ff",
        ("ff_prefix", 8): "ff",
    }


def test_reductions_of_narrow_ff_runs_count_for_no_line():
    rows = [
        changed(),
        changed(dim=8, reduction="svd", trained=False),
        changed(run="ff_8", dim=8),
        changed(run="ff_8", dim=8, reduction="svd", trained=False),
    ]
    assert lines_at(rows)["ff_svd", 8] == "ff"


def test_an_ff_classifier_has_no_shorter_prefixes():
    assert {line for line, _ in lines_at([changed(evaluation="linear")])} == {"ff"}


def test_probes_are_lines_of_their_own():
    rows = [
        changed(method="mrl"),
        changed(method="mrl", evaluation="probe"),
        changed(),
        changed(evaluation="probe", reduction="random", trained=False),
    ]
    assert {line for line, _ in lines_at(rows)} == {"mrl", "mrl_probe", "ff", "ff_prefix", "ff_random_probe"}


def test_sizes_between_the_trained_ones_are_interpolated():
    rows = [changed(method="mrl", dim=dim, trained=dim == 64) for dim in (64, 48, 32)]
    frame = tidy(rows)
    assert dict(zip(frame.dim, frame.interpolated, strict=True)) == {64: False, 48: True, 32: False}


def test_single_draws_give_way_to_their_mean():
    rows = [
        changed(reduction="random", setting={"k": 1, "draw": 0}),
        changed(reduction="random", setting={"k": 1}),
    ]
    frame = tidy([ROW, *rows])
    assert frame.setting[frame.line == "ff_random"].tolist() == ["k=1"]


def test_settings_are_taken_apart_and_costs_written_as_the_paper_does():
    setting = {"index": "flat", "stages": [(8, 200), (16, 100), (512, 10)]}
    frame = tidy([changed(method="mrl", setting=setting, metric="macs", value=2.5e6), changed(method="mrl")])
    found = [values(frame, name).tolist() for name in ("index", "shortlist", "k", "dim")]
    assert found == [["flat", ""], [200, ""], ["", 1], [64, 64]]
    assert (frame.metric[0], frame.value[0]) == ("MFLOPs", 2.5)


def test_the_papers_rows_fall_into_the_same_lines():
    columns = tidy([*published("table02")]).line.value_counts().to_dict()
    # FF at full width is printed in two columns and read in both.
    assert columns == {
        "mrl": 9, "mrl_e": 9, "ff": 10, "ff_prefix": 10, "ff_svd": 9, "ff_jl": 7, "slim": 9,
    }  # fmt: skip


def test_no_rows_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"evaluate\.py"):
        find_rows([f"{tmp_path}/*.csv"])
