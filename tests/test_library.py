"""The project as a library: the documentation's script, and networks of the user's own."""

import re

import pytest
import torch
from commands import ROOT, TINY
from composing import composed
from torch import nn

from mrl_experiments import NestedClassifier, load_method
from mrl_experiments.errors import UserError
from mrl_experiments.models.module_backbone import ModuleBackbone
from mrl_experiments.runs import run_of
from mrl_experiments.training.train import train

PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


class Net(nn.Sequential):
    """Features of small images."""

    def __init__(self, width: int = 24) -> None:
        super().__init__(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, width), nn.ReLU())


def test_the_script_of_the_documentation_learns(tmp_path, monkeypatch, capsys):
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 32
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(compile(script, "library.md", "exec"), told)
    validation = told["module"].validation
    assert list(validation) == [8, 16, 32, 64] and validation[64]["top1"] > 0.8
    assert told["best"].best_model_score == pytest.approx(validation[8]["top1"], abs=0.1)
    assert (
        "val/loss@16" in told["trainer"].callback_metrics
        and "train/loss@16" in told["trainer"].callback_metrics
    )
    assert told["trainer"].optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def test_a_network_of_ones_own_by_its_target(tmp_path):
    own = [
        "model=module",
        "model.name=mine",
        f"model.module._target_={__name__}.Net",
        "+model.module.width=16",
    ]
    small = ["data.loader=torch", "data.workers=0", "trainer.limit_train_batches=2", "epochs=1"]
    typed = [TINY[0], *TINY[3:4], *own, *small, f"root={tmp_path}"]
    cfg = composed("train", *typed)
    train(cfg)
    with pytest.raises(UserError, match=r"model\.module\._target_"):
        load_method(run_of(cfg))
    assert load_method(run_of(cfg), trust=[f"{__name__}.Net"]).spec.dims == (8, 16)


def test_a_module_that_gives_no_features_or_does_not_say_how_many_is_refused():
    assert ModuleBackbone(Net(), channels=1, size=32).width == 24
    with pytest.raises(UserError, match="does not take 3x16x16"):
        ModuleBackbone(Net(), channels=3, size=16)
    with pytest.raises(UserError, match=r"gives \(1, 1, 32, 32\)"):
        ModuleBackbone(nn.Identity(), channels=1, size=32)
    with pytest.raises(UserError, match="how many features"):
        NestedClassifier(Net(), 10)
    assert torch.is_tensor(Net()(torch.zeros(2, 1, 32, 32)))
