"""Runs with a label: beside the usual recipe in their ablation's table, and in no other."""

import csv
import dataclasses

import pytest
from conftest import COUNTERPARTS
from study_rows import DIMS, NONE, accuracy, measured

from mrl_experiments.paper import published
from mrl_experiments.report.aggregate import Column, grids
from mrl_experiments.report.all_figures import FIGURES
from mrl_experiments.report.all_tables import TABLES
from mrl_experiments.report.curves import charts
from mrl_experiments.report.formats import markdown
from mrl_experiments.report.styles import VARIANTS, line
from mrl_experiments.results import read_rows, write_rows

ABLATIONS = {table.ablation: table for table in TABLES if table.ablation}


def variant(rows, label, gain=0.01, dims=DIMS, evaluation="linear"):
    """The rows of an imaginary run with a label, of seed 0."""
    (like, *_) = [row for row in rows if row.method == "mrl" and row.evaluation == evaluation]
    run = f"mrl_{label.replace('/', '-')}_s0"
    return [
        dataclasses.replace(like, run=run, label=label, dim=dim, value=accuracy("mrl", dim, 0) + gain)
        for dim in dims
    ]


def table(name, rows):
    view = ABLATIONS[name]
    paper = measured([row for part in view.paper for row in published(part)])
    return grids(view, measured(rows), paper, COUNTERPARTS)


def shown(view, cells):
    return [markdown(grid) for grid in grids(view, cells, NONE, {})]


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_variants_are_those_of_the_recipes(name):
    theirs = {row.label for part in ABLATIONS[name].paper for row in published(part)} - {""}
    assert theirs == {key.partition(":")[2] for key in VARIANTS if key.startswith(f"mrl:{name}/")}


def test_a_variant_stands_beside_the_usual_recipe_and_the_paper(rows):
    (grid,) = table("weights", rows + variant(rows, "weights/8boost"))
    ours, usual = (Column((key,), "top1") for key in ("mrl:weights/8boost", "mrl"))
    assert grid.cell((8,), ours).mean == pytest.approx(accuracy("mrl", 8, 0) + 0.01)
    assert grid.cell((8,), ours, paper=True).mean == 0.6953
    assert (grid.cell((8,), usual).count, grid.cell((8,), usual, paper=True).mean) == (3, 0.6663)
    assert "| Dims | MRL top-1 [%] | MRL top-1 [%] (paper) |" in markdown(grid)
    assert "MRL-8boost top-1 [%] (paper)" in markdown(grid)


def test_a_first_size_that_only_a_variant_has_is_a_row(rows):
    (grid,) = table("first", rows + variant(rows, "first/4", dims=(4, *DIMS)))
    assert [key for (key,) in grid.index][:3] == [4, 6, 8]  # 6 from the paper
    assert grid.cell((4,), Column(("mrl",), "top1")) is None
    assert grid.cell((4,), Column(("mrl:first/4",), "top1"), paper=True).mean == 0.2725


def test_sizes_trained_by_a_variant_stay_interpolated_for_the_usual_recipe(rows):
    uniform = variant(rows, "spacing/uniform", dims=(12, 24, 512), evaluation="knn")
    (view,) = [view for view in TABLES if view.name == "table05"]
    assert shown(view, measured(rows)) == shown(view, measured(rows + uniform)) != []


@pytest.mark.slow
def test_all_other_tables_and_figures_are_as_without_ablations(rows):
    labels = ("weights/8boost", "first/4", "unfrozen/head", "temperature/low")
    more = rows + [row for label in labels for row in variant(rows, label)]
    before, after = measured(rows), measured(more)
    for view in (view for view in TABLES if not view.ablation):
        assert shown(view, before) == shown(view, after)
    for view in (view for view in FIGURES if not view.ablation):
        specs = [[chart.spec for chart in charts(view, cells, NONE, {})] for cells in (before, after)]
        assert specs[0] == specs[1]


def test_an_ablation_without_runs_has_no_table(rows):
    assert not table("weights", rows)
    assert not table("weights", rows + variant(rows, "first/4"))
    figure = next(figure for figure in FIGURES if figure.ablation == "weights")
    assert not charts(figure, measured(rows), NONE, {})


def test_a_label_of_ones_own_is_a_line_in_every_table(rows):
    (view,) = [view for view in TABLES if view.name == "table01"]
    (grid,) = grids(view, measured(rows + variant(rows, "cosine")), NONE, {})
    assert Column(("mrl:cosine",), "top1") in grid.columns
    assert line("mrl:cosine").label == "MRL, cosine"
    assert line("mrl:temperature/very_low").label == "MRL, very low"


def test_variants_of_one_ablation_differ_in_more_than_colour():
    for name in ABLATIONS:
        looks = [line("mrl"), *(look for key, look in VARIANTS.items() if key.startswith(f"mrl:{name}/"))]
        assert len({look.marker for look in looks}) == len({look.light for look in looks}) == len(looks)


def test_files_from_before_there_were_labels_are_read(rows, tmp_path):
    write_rows(tmp_path / "new.csv", rows[:2] + variant(rows, "weights/8boost")[:1])
    with (tmp_path / "new.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    with (tmp_path / "old.csv").open("w", newline="") as file:
        old_columns = [name for name in records[0] if name not in ("label", "crc32")]
        writer = csv.DictWriter(file, old_columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    assert [row.label for row in read_rows(tmp_path / "new.csv")] == ["", "", "weights/8boost"]
    old = read_rows(tmp_path / "old.csv")
    assert [row.label for row in old] == ["", "", ""]
    assert old[0].value == pytest.approx(rows[0].value)
