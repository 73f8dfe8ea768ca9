"""timm's optimizers and schedules, with its groups of parameters."""

import itertools

import pytest
import timm
import torch
from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.training.optim import TrainingLength, timm_optim

LENGTH = TrainingLength(steps_per_epoch=10, epochs=4, images_per_step=128)


@pytest.fixture
def method():
    backbone = TimmBackbone(arch="test_vit", name="test_vit", channels=1, size=32, options={"patch_size": 8})
    return NestedClassifier(backbone, 7)


def group_of(optimizer, parameter):
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb", "lion", "muon", "lookahead_radam"])
def test_optimizers_take_a_step(opt, method):
    optimizer, scheduler = timm_optim(method, LENGTH, opt=opt, lr=1e-3, weight_decay=0.1)
    before = [p.detach().clone() for p in method.parameters()]
    method(torch.randn(4, 1, 32, 32), torch.arange(4)).loss.backward()
    scheduler.step_update(10)
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_norms_biases_and_positions_do_not_decay_and_early_layers_are_slower(method):
    optimizer, scheduler = timm_optim(
        method, LENGTH, lr=1e-3, weight_decay=0.1, layer_decay=0.5, warmup_epochs=0
    )
    net = method.backbone.net
    scheduler.step_update(0)
    peak = 1e-3 * 128 / 256
    for parameter in (net.pos_embed, net.cls_token, net.norm.weight, net.blocks[0].attn.qkv.bias):
        assert group_of(optimizer, parameter)["weight_decay"] == 0
    rates = [group_of(optimizer, block.attn.qkv.weight)["lr"] for block in net.blocks]
    assert all(early == pytest.approx(late / 2) for early, late in itertools.pairwise(rates))
    assert group_of(optimizer, method.head.linear["64"].weight)["lr"] == pytest.approx(peak)
    assert group_of(optimizer, net.patch_embed.proj.weight)["lr"] < rates[0]


@pytest.mark.parametrize("schedule", ["cosine", "tanh", "poly", "step", "multistep", "wsd", "constant"])
def test_schedules_rise_and_follow_timm(schedule):
    options = {"step": {"decay_epochs": 2}, "multistep": {"decay_milestones": [2, 3]}}.get(schedule, {})
    optimizer, scheduler = timm_optim(
        nn.Linear(2, 2), LENGTH, opt="sgd", lr=1.0, schedule=schedule, schedule_options=options
    )
    rates = []
    for step in range(41):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4 * 0.5) and rates[:10] == sorted(rates[:10])
    assert max(rates) <= 0.5 + 1e-9 and rates[11] > 0.35  # timm's cosine begins to fall in the warm-up
    assert (rates[40] == pytest.approx(0.5)) == (schedule == "constant")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"opt": "adamv"}, "adamw"),
        ({"schedule": "cosinus"}, "cosinus"),
        ({"options": {"no_such": 1}}, "no_such"),
        ({"schedule_options": {"no_such": 1}}, "no_such"),
    ],
)
def test_unknown_names_and_arguments_are_refused(options, told):
    with pytest.raises(UserError) as refused:
        timm_optim(nn.Linear(2, 2), LENGTH, lr=1.0, **options)
    assert told in str(refused.value)


def test_frozen_parameters_are_left_out():
    module = timm.create_model("test_resnet", num_classes=3)
    module.conv1.requires_grad_(False) if isinstance(module.conv1, nn.Conv2d) else None
    frozen = {id(p) for p in module.parameters() if not p.requires_grad}
    optimizer, _ = timm_optim(module, LENGTH, lr=1.0, layer_decay=0.9)
    assert not frozen & {id(p) for group in optimizer.param_groups for p in group["params"]}
