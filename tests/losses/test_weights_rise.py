"""Weights of few dims that rise in the course of a training."""

import math

import pytest
import torch
from composing import composed, loss_options
from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.train import train

DIMS, WEIGHTS = (2, 4, 16), (1.0, 3.0, 0.5)


def method(**options):
    torch.manual_seed(0)
    backbone = nn.Linear(5, DIMS[-1])
    backbone.width = DIMS[-1]
    return NestedClassifier(backbone, 3, dims=DIMS, weights=WEIGHTS, **options)


@pytest.mark.parametrize("rise", [0.25, 1.0])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.9, 1.0, 1.3])
def test_a_weight_rises_from_its_share_of_all_dims_to_itself(rise, progress):
    ours = method(weights_rise=rise)
    ours.set_progress(progress)
    left = max(0.0, 1 - progress / rise)
    expected = [c * (m / 16) ** (4 * left) for c, m in zip(WEIGHTS, DIMS, strict=True)]
    torch.testing.assert_close(ours.weights, torch.tensor(expected))
    ours.set_progress(0)
    ours.set_progress(1)
    assert ours.weights.tolist() == list(WEIGHTS)


def test_the_loss_of_a_step_has_the_weights_of_its_progress():
    ours, x, y = method(weights_rise=0.5), torch.randn(6, 5), torch.arange(6) % 3
    ours.set_progress(0.25)
    out = ours(x, y)
    expected = sum(c * (m / 16) ** 2 * loss for c, m, loss in zip(WEIGHTS, DIMS, out.losses, strict=True))
    torch.testing.assert_close(out.loss.detach(), expected)


def test_without_a_rise_weights_stay():
    ours = method()
    ours.set_progress(0)
    assert ours.weights.tolist() == list(WEIGHTS)


def test_state_knows_nothing_of_it_and_a_fresh_model_has_the_weights_of_the_end():
    ours = method(weights_rise=0.5)
    assert ours.state_dict().keys() == method().state_dict().keys()
    assert ours.weights.tolist() == list(WEIGHTS)


@pytest.mark.parametrize("rise", [-0.1, 1.5, math.nan])
def test_what_is_no_share_is_refused(rise):
    with pytest.raises(UserError, match=r"weights_rise=(.|\n)*from 0 to 1"):
        method(weights_rise=rise)


def test_a_training_counts_its_steps(tmp_path, monkeypatch):
    seen, original = [], NestedModule.training_step

    def step(self, *arguments):
        loss = original(self, *arguments)
        seen.append(self.method.weights.tolist())
        return loss

    monkeypatch.setattr(NestedModule, "training_step", step)
    small = ["data=digits", "model.arch=test_resnet", "logger=csv", "data.loader=torch", "data.workers=1"]
    short = ["epochs=2", "trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=2"]
    others = ["loss.weights_rise=0.5", "trainer.progress=false", f"root={tmp_path}"]
    train(composed("train", *small, *short, *others))
    dims = [12, 24, 48, 96]
    powers = [4, 4, 2, 2, 0, 0, 0, 0]  # of four steps of two batches, over half of them
    expected = [[(dim / 96) ** power for dim in dims] for power in powers]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


@pytest.mark.parametrize(("loss", "rise"), [("infonce", 0.5), ("infonce_ff", 0), ("mrl", 0), ("mrl_e", 0)])
def test_few_dims_come_last_for_images_with_texts(loss, rise):
    assert loss_options(loss).weights_rise == rise
