"""Table 26 from nothing: an FF run, MRL from it with each choice of layers, their evaluation, the table."""

import pytest
from composing import composed

from mrl_experiments.embed import embed
from mrl_experiments.evaluate import evaluate
from mrl_experiments.report.aggregate import Column, aggregate, grids
from mrl_experiments.report.all_tables import TABLES
from mrl_experiments.report.prepare import tidy
from mrl_experiments.results import read_rows
from mrl_experiments.training.train import train

CHOICES = ("head", "last_conv", "last_2_convs", "last_block")
QUICK = [
    *("data=digits", "data.loader=torch", "data.workers=1", "+model.options.channels=[8,8,8,32]"),
    *("trainer.progress=false", "logger=csv"),
]


@pytest.mark.slow
def test_each_choice_of_layers_is_a_line(tmp_path):
    root = f"root={tmp_path}"
    train(composed("train", root, *QUICK, "loss=ff", "epochs=3"))
    for choice in CHOICES:
        recipe = ["experiment=ablation/finetune", f"unfreeze={choice}", "epochs=1"]
        train(composed("train", root, *QUICK, *recipe))
    embed(composed("embed", root, "run=*_unfrozen-*", "splits=[val]"))
    evaluate(composed("evaluate", root, "run=*_unfrozen-*"), "linear", "prefix")
    rows = [row for path in sorted(tmp_path.glob("runs/*/results/*.csv")) for row in read_rows(path)]
    (view,) = (table for table in TABLES if table.name == "table26")
    (grid,) = grids(view, aggregate(tidy(rows)), aggregate(tidy([])), {})
    assert [dim for (dim,) in grid.index] == [8, 16, 32]
    found = {
        choice: [grid.cell(key, Column((f"mrl:unfrozen/{choice}",), "top1")).mean for key in grid.index]
        for choice in CHOICES
    }
    assert all(0.15 < accuracies[-1] <= 1 for accuracies in found.values())  # chance is 0.1
    losses = {row.label: row.value for row in rows if row.metric == "nll" and row.dim == 32}
    assert len(losses) == len({*losses.values()}) == 4  # of so few samples, the same number may be right
