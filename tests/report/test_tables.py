"""Means, deviations, the paper beside ours, and nothing where nothing was measured."""

import csv
import dataclasses
import io
import re
from collections import defaultdict

import numpy as np
import pytest
from conftest import COUNTERPARTS
from study_rows import NONE, measured

from mrl_experiments.paper import published
from mrl_experiments.report.aggregate import Column, grids
from mrl_experiments.report.all_figures import FIGURES
from mrl_experiments.report.all_tables import TABLES
from mrl_experiments.report.curves import charts
from mrl_experiments.report.formats import comma_separated, latex, markdown
from mrl_experiments.report.prepare import ROLES
from mrl_experiments.results import ResultRow

BY_NAME = {table.name: table for table in TABLES}


def paper(*tables: str):
    return measured([row for table in tables for row in published(table) if row.source.startswith("arXiv")])


def grid_of(name: str, rows, dataset: str = "kanji1k"):
    found = grids(BY_NAME[name], measured(rows), paper(*BY_NAME[name].paper), COUNTERPARTS)
    (grid,) = [grid for grid in found if grid.block.dataset == dataset]
    return grid


def test_a_cell_is_the_mean_and_sample_deviation_over_seeds(rows):
    cell = grid_of("table01", rows).cell((8,), Column(("mrl",), "top1"))
    values = [
        row.value
        for row in rows
        if (row.method, row.evaluation, row.split, row.dim, row.metric) == ("mrl", "linear", "val", 8, "top1")
    ]
    assert len(values) == cell.count == 3
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.deviation == pytest.approx(np.std(values, ddof=1))


def test_a_single_run_shows_the_deviation_it_states_or_none(rows):
    one = [row for row in rows if row.seed == 0]
    stated = grid_of("table03", one).cell(("mrl", 16), Column((), "top1"))
    assert stated.deviation == 0.002
    assert grid_of("table01", one).cell((8,), Column(("mrl",), "top1")).deviation != 0


def test_the_papers_value_stands_beside_ours(rows):
    grid = grid_of("table01", rows)
    assert grid.cell((8,), Column(("mrl",), "top1"), paper=True).mean == 0.6663
    assert (
        grid_of("table10", rows, "kanji4k").cell(("mrl", 2048), Column((), "mAP@10"), paper=True).mean
        == 0.1720
    )


def test_a_data_set_without_counterpart_stands_alone(rows):
    other = [dataclasses.replace(row, dataset="digits") for row in rows if row.dataset == "kanji1k"]
    assert not grid_of("table01", other, "digits").paper


def test_shifts_stand_beside_the_papers_under_our_names(rows):
    grid = grid_of("table17", rows)
    assert grid.cell((8,), Column(("bitmap", "mrl"), "top1"), paper=True).mean == 0.0339
    assert grid.cell((8,), Column(("sketch", "mrl"), "top1"), paper=True).mean == 0.1798


def test_what_is_missing_stays_missing(rows):
    grid = grid_of("table01", [row for row in rows if not (row.method == "mrl_e" and row.dim == 64)])
    assert grid.cell((64,), Column(("mrl_e",), "top1")) is None
    assert grid.cell((1024,), Column(("mrl",), "top1")) is None
    (line,) = [line for line in markdown(grid).splitlines() if line.startswith("| 64 ")]
    assert line.split(" | ")[3:5] == ["–", "75.35"]
    record = next(r for r in csv.DictReader(io.StringIO(comma_separated(grid))) if r["Dims"] == "64")
    assert (record["MRL-E"], record["MRL-E runs"], record["MRL-E (paper)"]) == ("", "", "0.7535")


def test_the_three_forms_of_a_table_hold_the_same_numbers(rows):
    grid = grid_of("table02", rows)
    markdown_rows = [
        row.strip("| ").split(" | ") for row in markdown(grid).splitlines() if re.match(r"\| \d", row)
    ]
    latex_rows = [row[:-3].split(" & ") for row in latex(grid).splitlines() if re.match(r"\d", row)]
    assert [
        [cell.replace("--", "–").replace(r"$\pm$", "±") for cell in row] for row in latex_rows
    ] == markdown_rows
    for row, record in zip(markdown_rows, csv.DictReader(io.StringIO(comma_separated(grid))), strict=True):
        mean, deviation = record["MRL"], record["MRL deviation"]
        assert row[1] == (f"{float(mean) * 100:.2f} ± {float(deviation) * 100:.2f}" if mean else "–")


def test_language_models_have_tables_of_their_own():
    def row(run, method, model, dim, metric, value):
        place = {"dataset": "python_stdlib", "split": "val", "evaluation": "language", "reduction": "prefix"}
        return ResultRow(
            run=run, method=method, model=model, dim=dim, metric=metric, value=value, trained=True,
            setting={}, seed=0, **place,
        )  # fmt: skip

    causal = [row("a", "mrl_e", "gpt_tiny", dim, "bits_per_byte", 20 / dim) for dim in (8, 16)]
    causal += [row(f"b{dim}", "ff", "gpt_tiny", dim, "bits_per_byte", 16 / dim) for dim in (8, 16)]
    masked = [row("c", "mrl_e", "bert_tiny", dim, "top1", dim / 20) for dim in (8, 16)]
    for name, wanted in (("table-language", {"gpt_tiny"}), ("table07", {"bert_tiny"})):
        found = grids(BY_NAME[name], measured([*causal, *masked]), NONE, {})
        assert {grid.block.model for grid in found} == wanted
    (grid,) = grids(BY_NAME["table-language"], measured(causal), NONE, {})
    assert {column.key for column in grid.columns} == {("mrl_e",), ("ff",)}
    assert grid.cell((8,), Column(("ff",), "bits_per_byte")).mean == 2


def test_adaptive_decoding_stands_beside_each_size_alone():
    def rows(run, setting, dim, macs, bits):
        place = {"dataset": "python_stdlib", "split": "val", "model": "gpt_tiny", "method": "mrl_e"}
        values = {
            "head_macs": macs,
            "bits_per_byte": bits,
            "tokens_per_s": 1000.0,
            "expected_dim": float(dim),
        }
        return [
            ResultRow(
                run=run,
                evaluation="adaptive_decoding",
                reduction="prefix",
                dim=dim,
                metric=metric,
                value=value,
                trained=True,
                setting=setting,
                seed=int(run[-1]),
                **place,
            )
            for metric, value in values.items()
        ]

    found = [
        *(
            row
            for seed in "01"
            for dim in (8, 16)
            for row in rows(f"s{seed}", {"policy": "single"}, dim, dim * 1e4, 2)
        ),
        *(
            row
            for seed in "01"
            for row in rows(f"s{seed}", {"policy": "uniform", "threshold": 0.3}, 16, 9e4, int(seed))
        ),
        *rows("s0", {"policy": "risk_control", "drop": 0.01, "delta": 0.1}, 16, 1e5, 1.5),
    ]
    (grid,) = grids(BY_NAME["table-decoding"], measured(found), NONE, {})
    assert len(grid.index) == 4
    cell = grid.cell(("mrl_e", "uniform", 16, "0.3", ""), Column((), "bits_per_byte"))
    assert (cell.mean, cell.count) == (0.5, 2)
    assert "| MRL-E | one threshold | 16 | 0.3 |  | 16.0 | 0.09 | 1000 | 0.500 ± 0.707 |" in markdown(grid)
    figure = next(figure for figure in FIGURES if figure.name == "figure-decoding")
    (chart,) = charts(figure, measured(found), NONE, {})
    assert {*zip(chart.points.note, chart.points.linked, strict=True)} == {
        ("each dim alone", True), ("one threshold", False), ("risk control", False),
    }  # fmt: skip
    assert not chart.points.joined.any()  # two points are no line
    assert chart.points["look"].map(lambda look: look.marker).nunique() == 3
    assert [*chart.points.x[chart.points.note == "each dim alone"]] == pytest.approx([0.08, 0.16])


def test_the_papers_data_are_named_under_the_table(rows):
    assert "Paper: ImageNet, its own models." in markdown(grid_of("table01", rows))
    masked = [dataclasses.replace(row, dataset="own") for row in published("table07")]
    counterparts = {"own": {"dataset": "wikipedia_books"}}
    (grid,) = grids(BY_NAME["table07"], measured(masked), paper("table07"), counterparts)
    assert "Paper: Wikipedia and BooksCorpus, its own models." in markdown(grid)


def test_oddities_of_the_paper_are_said_under_the_table(rows):
    assert "at chance level" in markdown(grid_of("table02", rows))
    assert "Beware" not in markdown(grid_of("table01", rows))


def test_metrics_that_a_table_does_not_show_are_no_runs_of_it(rows):
    shown = next(row for row in rows if row.evaluation == "linear" and row.metric == "top1")
    oracle = dataclasses.replace(
        shown, split="v2", evaluation="adaptive_classification", setting={"policy": "oracle"}
    )
    others = [dataclasses.replace(oracle, dim=dim, metric="first_correct", value=dim / 99) for dim in (8, 16)]
    grid = grid_of("table23", [oracle, *others])
    assert all(len(cell.numbers) == 1 for cell in grid.ours.values())
    assert "Mean" not in markdown(grid) and "2 runs" not in markdown(grid)


def test_names_of_tables_and_figures_are_unique():
    names = [view.name for view in (*TABLES, *FIGURES)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("table", [table for table in TABLES if table.paper], ids=lambda table: table.name)
def test_every_published_value_of_a_table_finds_its_place(table):
    """Put the paper's rows in the place of ours: each appears once, but those the table does not show."""
    rows = [row for name in table.paper for row in published(name) if row.source.startswith("arXiv")]
    shown = [row for row in rows if row.metric in table.metrics]
    shown = [
        row for row in shown if ROLES.get(row.split, "shift") == table.role
    ]  # the others stand elsewhere
    if table.role == "shift":  # so do linear values of table 23
        shown = [row for row in shown if row.evaluation in table.evaluations]
    if table.theirs is not None:
        table = dataclasses.replace(table, settings=table.theirs)
        shown = [row for row in shown if row.model == table.theirs["model"]]
    values = defaultdict(int)
    for grid in grids(table, measured(rows), NONE, {}):
        for cell in grid.ours.values():
            assert len({rows[number].value for number in cell.numbers}) == 1, cell
            values[cell.mean] += 1
    for value in {row.value for row in shown}:
        assert values[value] > 0
    full_width = {"table02": 1}.get(table.name, 0)  # FF is printed in two columns there and is two rows
    assert sum(values.values()) >= len(shown) - full_width


def test_a_figure_has_our_lines_and_the_papers(rows):
    figure = next(figure for figure in FIGURES if figure.name == "figure08")
    (chart,) = charts(figure, measured(rows), paper(*figure.paper), COUNTERPARTS)
    lines = {key: group for key, group in chart.points.groupby(["name", "paper"])}
    wanted = {("MRL", False), ("MRL", True), ("FF", False), ("MRL, funnel", False)}
    assert wanted | {("MRL, adaptive retrieval", True)} <= lines.keys()
    assert lines["MRL", False].joined.all() and not lines["MRL, funnel", False].joined.any()
    xs = [0.06 * dim for dim in (8, 16, 32, 64, 128, 256, 512)]
    assert [*lines["MRL", False].x] == pytest.approx(xs)
    assert len(lines["MRL, adaptive retrieval", False]) == 21
