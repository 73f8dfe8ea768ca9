import copy

import pytest
import torch
from timm.optim.muon import Muon as OfTimm
from torch import nn

from mrl_experiments.training.muon import Muon
from mrl_experiments.training.optim import TrainingLength, muon

LENGTH = TrainingLength(steps_per_epoch=10, epochs=2, images_per_step=512)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(16, 5, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_moves_as_timms_does_where_all_taps_are_met(dtype, monkeypatch):
    ours, theirs = net()[:1], net()[:1]
    optimizer = Muon(
        [{"params": ours.parameters(), "orthogonal": True, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}]
    )
    optimizer.dtype = dtype
    other = OfTimm(
        theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, adjust_lr_fn="rms_to_rms"
    )
    for _ in range(3):
        x = torch.randn(4, 3, 4, 4)
        for module, one in ((ours, optimizer), (theirs, other)):
            one.zero_grad()
            module(x).square().mean().backward()
            one.step()
        tolerance = 1e-5 if dtype == torch.bfloat16 else 2e-2  # timm's products are in bfloat16
        torch.testing.assert_close(ours[0].weight, theirs[0].weight, atol=tolerance, rtol=tolerance)


def test_taps_that_only_meet_padding_stay_and_the_others_move_as_the_matrix_that_they_are():
    module = net()
    optimizer, _ = muon(module, LENGTH, lr=0.1, lr_images=512, warmup_epochs=0)
    before = copy.deepcopy(module)
    module(torch.randn(8, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    change = (module[3].weight - before[3].weight).detach()
    center = change[:, :, 1, 1]
    assert (change != 0).sum() == (center != 0).sum() > 0
    rate = optimizer.param_groups[0]["lr"] * (16 / 12) ** 0.5
    values = torch.linalg.svdvals(center)
    assert (values[:5] - rate).abs().max() < 0.35 * rate  # of rank 5, that of the gradient


def test_matrices_are_orthogonal_and_the_rest_is_adamws_with_its_own_rate():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8, 2)
    )
    optimizer, schedule = muon(module, LENGTH, lr=0.1, rest_lr=0.01, lr_images=256, warmup_epochs=0)
    matrices, rest = optimizer.param_groups
    assert {tuple(p.shape) for p in matrices["params"]} == {(8, 4, 1, 1), (2, 8)}
    assert len(rest["params"]) == 6 and rest["weight_decay"] == 0
    assert (matrices["lr"], rest["lr"]) == pytest.approx((0.2, 0.02))
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert (matrices["lr"], rest["lr"]) == pytest.approx((0.1, 0.01))


def test_a_network_without_matrices_or_gradients_is_no_error():
    module = nn.BatchNorm2d(3)
    optimizer, _ = muon(module, LENGTH, lr=0.1)
    optimizer.step()
    assert len(optimizer.param_groups) == 1


def test_its_state_goes_on_where_it_was():
    def steps(module, optimizer, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            optimizer.zero_grad()
            module(torch.randn(8, 3, 4, 4, generator=generator)).square().sum().backward()
            optimizer.step()

    whole, resumed = net(), net()
    optimizer, _ = muon(whole, LENGTH, lr=0.1, warmup_epochs=0)
    steps(whole, optimizer, range(4))
    first, _ = muon(resumed, LENGTH, lr=0.1, warmup_epochs=0)
    steps(resumed, first, range(2))
    second, _ = muon(resumed, LENGTH, lr=0.1, warmup_epochs=0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(resumed, second, range(2, 4))
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
