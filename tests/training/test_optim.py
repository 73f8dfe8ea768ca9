import copy

import pytest
import timm
import torch
from torch import nn
from torch.optim import SGD

from mrl_experiments.errors import UserError
from mrl_experiments.training.optim import TrainingLength, adamw_cosine, parameter_groups, sgd_cyclic

PAPER = {"lr": 0.425, "lr_images": 1024, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}


def rates(optimizer, schedule, steps):
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_sgd_follows_the_papers_triangle():
    length = TrainingLength(steps_per_epoch=10, epochs=40, images_per_step=512)
    optimizer, schedule = sgd_cyclic(nn.Linear(2, 2), length, name="sgd", warmup_epochs=2, **PAPER)
    seen = list(rates(optimizer, schedule, 401))
    peak = 0.425 / 2  # half the images a step, half the rate
    assert seen[0] == pytest.approx(1e-4 * peak)
    assert seen[20] == max(seen) == pytest.approx(peak)
    assert seen[210] == pytest.approx(peak / 2)
    assert seen[400] == pytest.approx(0, abs=1e-9)


def test_adamw_follows_half_a_cosine():
    length = TrainingLength(steps_per_epoch=10, epochs=12, images_per_step=1024)
    optimizer, schedule = adamw_cosine(nn.Linear(2, 2), length, name="adamw", warmup_epochs=2, **PAPER)
    seen = list(rates(optimizer, schedule, 121))
    assert seen[20] == max(seen) == pytest.approx(0.425)
    assert seen[70] == pytest.approx(0.425 / 2)
    assert seen[120] == pytest.approx(0, abs=1e-9)


def test_a_training_shorter_than_its_warm_up_still_reaches_the_peak_and_falls():
    length = TrainingLength(steps_per_epoch=4, epochs=1, images_per_step=1024)
    optimizer, schedule = sgd_cyclic(nn.Linear(2, 2), length, name="sgd", warmup_epochs=5, **PAPER)
    seen = list(rates(optimizer, schedule, 4))
    assert max(seen) == seen[2] == pytest.approx(0.425)
    assert seen[3] < seen[2]


def test_normalisation_and_biases_do_not_decay():
    module = timm.create_model("resnet10t", num_classes=3)
    decayed, free = parameter_groups(module, 0.1)
    kinds = {id(p): type(m) for m in module.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)] for p in decayed["params"]} == {nn.Conv2d, nn.Linear}
    biases = {id(m.bias) for m in module.modules() if isinstance(m, nn.Linear)}
    assert all(issubclass(kinds[id(p)], nn.BatchNorm2d) or id(p) in biases for p in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(list(module.parameters()))


def test_frozen_parameters_are_left_out():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(module, 0.1)] == [1, 0]
    torch.optim.SGD(parameter_groups(module, 0.1), lr=1)


@pytest.mark.parametrize("build", [sgd_cyclic, adamw_cosine])
def test_a_step_does_not_depend_on_how_convolutions_lie_in_memory(build):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, (1, 3)))
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    strides = [parameter.stride() for parameter in turned.parameters()]
    x = torch.randn(4, 3, 6, 6)
    for net in (plain, turned):
        length = TrainingLength(steps_per_epoch=10, epochs=1, images_per_step=1024)
        optimizer, _ = build(net, length, name="", **{**PAPER, "lr": 0.01})
        assert optimizer.defaults["fused"]

        def closure(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            return loss

        assert all(optimizer.step(closure) > 0 for _ in range(3))
        for parameter in net.parameters():
            assert all(one.shape in ((), parameter.shape) for one in optimizer.state[parameter].values())
    for ours, expected in zip(turned.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)
    assert strides == [parameter.stride() for parameter in turned.parameters()]


def test_a_step_that_fails_leaves_everything_in_its_shape(monkeypatch):
    net = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    length = TrainingLength(steps_per_epoch=10, epochs=1, images_per_step=1024)
    optimizer, _ = sgd_cyclic(net, length, name="", **PAPER)
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    monkeypatch.setattr(SGD, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert net.weight.shape == net.weight.grad.shape == (5, 3, 3, 3)


@pytest.mark.parametrize(("fused", "seen"), [(True, (5, 3, 3, 2)), (None, (5, 2, 3, 3))])
def test_only_a_step_in_one_pass_sees_the_order_of_memory(fused, seen, monkeypatch):
    net = nn.Conv2d(2, 5, 3).to(memory_format=torch.channels_last)
    length = TrainingLength(steps_per_epoch=10, epochs=1, images_per_step=1024)
    optimizer, _ = sgd_cyclic(net, length, name="", **PAPER)
    optimizer.defaults["fused"] = fused
    net(torch.randn(2, 2, 5, 5)).sum().backward()
    shapes = []
    monkeypatch.setattr(SGD, "step", lambda self: shapes.append(tuple(net.weight.shape)))
    optimizer.step()
    assert shapes == [seen]


def test_a_training_without_an_end_has_no_number_of_steps():
    assert TrainingLength(10, -1, 1, max_steps=7).steps == 7
    with pytest.raises(UserError, match=r"no end(.|\n)*max_steps"):
        TrainingLength(10, -1, 1).steps  # noqa: B018
