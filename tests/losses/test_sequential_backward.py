"""The sum whose terms are differentiated one after the other, against the plain sum."""

import pytest
import torch
from torch import nn

from mrl_experiments.losses.sequential_backward import sequential_backward


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 1)
        self.rare = nn.Parameter(torch.randn(7))  # in the last loss only
        self.unused = nn.Parameter(torch.randn(3))

    def losses(self, x, scale=1.0):
        for number in range(3):
            hidden = torch.tanh(self.first(x) * (number + 1))
            if number == 2:
                hidden = hidden * self.rare
            yield scale * self.second(hidden).square().mean()


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.fixture
def net():
    return Net().double()


@pytest.fixture
def x():
    return torch.randn(6, 5, dtype=torch.float64)


def test_value_and_gradients_are_those_of_the_plain_sum(net, x):
    plain = sum(net.losses(x))
    expected = gradients(net, plain)
    total = sequential_backward(net.losses(x), list(net.parameters()))
    torch.testing.assert_close(total, plain)
    for ours, theirs in zip(gradients(net, total), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert net.unused.grad is None and net.rare.grad.all()


def test_it_is_a_loss_like_any_other(net, x):
    """It may be scaled, be one term of several, and come again before the optimizer steps."""
    plain = 3 * sum(net.losses(x)) + net.rare.sum() + sum(net.losses(2 * x))
    expected = gradients(net, plain)
    net.zero_grad()
    parameters = list(net.parameters())
    (3 * sequential_backward(net.losses(x), parameters) + net.rare.sum()).backward()
    sequential_backward(net.losses(2 * x), parameters).backward()
    for ours, theirs in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs)


def test_nothing_reaches_the_parameters_before_the_backward_pass(net, x):
    total = sequential_backward(net.losses(x), list(net.parameters()))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert total.requires_grad and total.shape == ()


def test_frozen_parameters_stay_out(net, x):
    net.first.requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    sequential_backward(net.losses(x), trained).backward()
    assert net.first.weight.grad is None and net.second.weight.grad.any()


def test_each_graph_is_gone_before_the_next_loss_is_asked_for(net, x):
    alive, seen, kept = [0], [], []

    def counted():
        losses = net.losses(x)
        while True:
            seen.append(alive[0])
            if (loss := next(losses, None)) is None:
                return
            kept.append(alive[0])
            yield loss

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: Held(tensor, alive), lambda held: held.tensor
    ):
        total = sequential_backward(counted(), list(net.parameters()))
        assert seen == [0, 0, 0, 0]
        plain = sum(net.losses(x))
    assert alive[0] >= sum(kept) > 0 and plain.isclose(total)  # the plain sum keeps all three


class Held:
    """A tensor that a graph keeps; counts those alive."""

    def __init__(self, tensor, count):
        self.tensor, self.count = tensor, count
        count[0] += 1

    def __del__(self):
        self.count[0] -= 1


def test_without_gradients_it_is_just_the_sum(net, x):
    with torch.no_grad():
        total = sequential_backward(net.losses(x), list(net.parameters()))
    torch.testing.assert_close(total, sum(net.losses(x)).detach())
    assert not total.requires_grad


def test_gradients_below_float16s_range_survive_its_autocast():
    net, x = Net(), torch.randn(6, 5)
    scale = 1e-7  # the products with it are below 6e-8, where float16 ends
    with torch.autocast("cpu", torch.float16):
        total = sequential_backward(net.losses(x, scale), list(net.parameters()))
    small = gradients(net, total)
    expected = gradients(net, sum(net.losses(x, scale)))
    for ours, theirs in zip(small, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.02 * theirs.abs().max().item())
