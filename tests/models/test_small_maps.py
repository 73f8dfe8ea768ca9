import copy

import pytest
import torch
from torch import nn

from mrl_experiments.models import small_maps
from mrl_experiments.models.small_maps import SmallMapConv2d, quicken_small_maps
from mrl_experiments.models.timm_backbone import TimmBackbone


def gradients(conv, x, grad):
    x = x.clone().requires_grad_()
    (conv(x) * grad).sum().backward()
    return x.grad, *(parameter.grad for parameter in conv.parameters())


def both(*args, **options):
    plain = nn.Conv2d(*args, **options).double()
    quick = copy.deepcopy(plain)
    quicken_small_maps(quick)
    assert type(plain) is nn.Conv2d and type(quick) is SmallMapConv2d
    return plain, quick


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [(1, 1), (2, 2), (1, 3), (4, 1), (3, 2), (4, 4)])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"padding": 1, "bias": False}),
        (3, {"padding": 1, "stride": 2}),
        (1, {}),
        (1, {"stride": 2}),
        ((1, 3), {"padding": (0, 2), "stride": (1, 2)}),
        (7, {"padding": 3, "stride": 2}),
    ],
)
def test_results_and_gradients_are_those_of_the_plain_convolution(kernel, options, side, memory):
    plain, quick = both(5, 6, kernel, **options)
    x = torch.randn(8, 5, *side, dtype=torch.float64).contiguous(memory_format=memory)
    expected = plain(x)
    torch.testing.assert_close(quick(x), expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(gradients(quick, x, grad), gradients(plain, x, grad), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_small_maps_of_several_images_are_matrix_products(monkeypatch):
    _, quick = both(3, 4, 3, padding=1)
    met = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: met.append(tuple(x.shape)) or plain(self, x))
    for shape in [(8, 3, 2, 2), (7, 3, 2, 2), (8, 3, 3, 3), (9, 3, 1, 1)]:
        quick(torch.zeros(shape, dtype=torch.float64))
    assert met == [(7, 3, 2, 2), (8, 3, 3, 3)]
    met.clear()
    with torch.autocast("cpu", torch.bfloat16):  # where products of a CPU are faster by more
        for shape in [(8, 3, 3, 3), (8, 3, 4, 4)]:
            quick.float()(torch.zeros(shape))
    assert met == [(8, 3, 4, 4)]


def test_what_is_no_plain_convolution_stays_as_it_is():
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    )
    quicken_small_maps(others)
    assert {type(layer) for layer in others} == {nn.Conv2d}


def test_under_autocast_products_are_in_its_precision_and_gradients_in_that_of_the_weights():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    quicken_small_maps(conv)
    x = torch.randn(8, 16, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and conv.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), nn.Conv2d.forward(conv, x), atol=0.05, rtol=0.05)


def test_a_whole_network_keeps_its_parameters_and_learns_the_same():
    torch.manual_seed(0)
    plain = TimmBackbone(arch="resnet10t", name="r", channels=1, size=32).double()
    quick = copy.deepcopy(plain)
    quicken_small_maps(quick)
    assert any(isinstance(layer, SmallMapConv2d) for layer in quick.modules())
    assert list(quick.state_dict()) == list(plain.state_dict())
    x = torch.randn(8, 1, 32, 32, dtype=torch.float64)
    for net in (plain, quick):
        net(x).square().sum().backward()
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_exported_programs_take_any_number_of_images():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    quicken_small_maps(conv)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(conv, (torch.zeros(9, 4, 2, 2),), dynamic_shapes=({0: batch},))
    x = torch.randn(small_maps.FEWEST_IMAGES + 3, 4, 2, 2)
    torch.testing.assert_close(program.module()(x), conv(x))
