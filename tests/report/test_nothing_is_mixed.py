"""Nothing but seeds of one method, reduction and setting is ever averaged."""

import dataclasses
from itertools import count, product

import pytest
from study_rows import NONE, measured

from mrl_experiments.report.aggregate import grids
from mrl_experiments.report.all_tables import TABLES, others
from mrl_experiments.report.formats import markdown
from mrl_experiments.report.prepare import ROLES, repeated_seeds
from mrl_experiments.results import COLUMNS, ResultRow

SPLITS = {"main": "val", "unseen": "query", "shift": "sketch", "stream": "stream"}
MODELS = {"*vit*": "vit_tiny", "*bert*": "bert_tiny"}


def rows_of(table, seeds=(0, 1)) -> list[ResultRow]:
    """Rows of two methods and two reductions at two sizes, with two values of each setting it leaves open."""
    fixed = {
        name: MODELS.get(str(value), "all" if value == "?*" else value)
        for name, value in table.settings.items()
    }
    in_row = {name: fixed.pop(name) for name in [*fixed] if name in COLUMNS}
    open_settings = {*table.index, *table.columns, *table.ignore} - {*COLUMNS, "line", "metric", *fixed}
    settings = [
        fixed | dict(zip(open_settings, values, strict=True))
        for values in product((8, 16), repeat=len(open_settings))
    ]
    number = count(1)
    rows = []
    kinds = product(("mrl", "contrastive"), ("prefix", "svd"), settings, table.evaluations, table.metrics)
    for method, reduction, setting, evaluation, metric in kinds:
        for dim in (24, 48) if table.interpolated == "only" else (16, 32)[: 1 if "dim" in in_row else 2]:
            value = next(number) / 10_000
            for seed in seeds:
                place = {
                    "run": f"{method}_s{seed}", "method": method, "model": "m", "dataset": "d", "dim": dim,
                    "split": SPLITS[table.role], "reduction": reduction, "trained": dim in (16, 32),
                }  # fmt: skip
                measured = {"evaluation": evaluation, "setting": setting, "metric": metric, "value": value}
                rows.append(ResultRow(**{**place, **measured, **in_row, "seed": seed}))
    return rows + [dataclasses.replace(row, dim=64, trained=True) for row in rows[:1]]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_of_two_methods_shows_each_by_itself(table):
    rows = rows_of(table)
    if table.ablation:  # other labels have tables of their own
        rows += [dataclasses.replace(row, label=f"{table.ablation}/x", value=row.value + 0.3) for row in rows]
    wanted = {row.value for row in rows if row.metric in table.metrics}
    found = set()
    for grid in grids(table, measured(rows), NONE, {}):
        for cell in grid.ours.values():
            own = [rows[number] for number in cell.numbers]
            assert len({(row.method, row.reduction, str(row.setting)) for row in own}) == 1
            assert len({row.value for row in own}) == 1 and cell.count <= 2
            found.add(own[0].value)
    pinned = {*table.settings} & {"method", "dim"}  # such a table shows only these rows
    assert found <= wanted and (found == wanted or pinned)


def test_two_runs_of_one_seed_stand_apart_and_are_named():
    (table,) = [table for table in TABLES if table.name == "table01"]
    rows = rows_of(table)
    twins = [dataclasses.replace(row, run=f"{row.run}_second", value=row.value / 2) for row in rows]
    both = [*rows, *twins]
    found = grids(table, measured(both), NONE, {})
    cells = [cell for grid in found for cell in grid.ours.values()]
    assert all(len({both[number].value for number in cell.numbers}) == 1 for cell in cells)
    assert all("Run" in markdown(grid).split("\n")[2] for grid in found)
    notes = repeated_seeds(measured(both))
    assert "mrl_s0 and mrl_s0_second and mrl_s1 and mrl_s1_second have the same seed" in " ".join(notes)
    assert repeated_seeds(measured(rows)) == []


@pytest.mark.parametrize(
    ("evaluation", "split"), [("auto_retrieval", "val"), ("few_shot", "val"), ("knn", "stream")]
)
def test_what_no_table_describes_gets_one_in_each_role(evaluation, split):
    (table,) = [table for table in TABLES if table.name == "table18"]
    place = {"evaluation": evaluation, "split": split, "trained": False, "setting": {"stages": [(8, 200)]}}
    rows = [dataclasses.replace(row, **place) for row in rows_of(table)]
    found = others(measured(rows), TABLES)
    assert [(view.evaluations, view.role) for view in found] == [((evaluation,), ROLES.get(split, "shift"))]
    shown = {
        cell.mean
        for view in found
        for grid in grids(view, measured(rows), NONE, {})
        for cell in grid.ours.values()
    }
    assert sorted(shown) == pytest.approx(sorted({row.value for row in rows}))
