"""Slimmable networks against plain ones: the same layers, built with fewer channels."""

import copy
import functools
import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrow_networks import cut, images, norms, with_statistics
from torch import nn

from mrl_experiments.cost import network_macs
from mrl_experiments.errors import UserError
from mrl_experiments.losses.slimmable.network import SlimmableNet, kept_channels
from mrl_experiments.models.timm_backbone import TimmBackbone

WIDTHS = (0.25, 0.5, 0.75, 1.0)
SHAPE = (3, 32, 32)
ONE_BLOCK_EACH = {"layers": (1, 1, 1, 1)}
QUICK = {
    "resnet10t": {},
    "resnet18": {},
    "resnext50_32x4d": ONE_BLOCK_EACH,
    "seresnet50": ONE_BLOCK_EACH,
    "mobilenetv2_050": {},
    "regnety_002": {},
}
WHOLE = ("resnet50", "resnext50_32x4d", "seresnet50", "mobilenetv2_100", "efficientnet_b0")
WHOLE += ("tf_efficientnet_b0", "regnetx_002", "regnety_008", "resnet50d")
CASES = [
    *(pytest.param(arch, options, id=arch) for arch, options in QUICK.items()),
    *(pytest.param(arch, {}, id=f"{arch}-whole", marks=pytest.mark.slow) for arch in WHOLE),
]


@functools.lru_cache(maxsize=8)
def drawn(arch, **options):
    torch.manual_seed(0)
    return with_statistics(timm.create_model(arch, num_classes=0, **options))


def plain(arch, options=None):
    return copy.deepcopy(drawn(arch, **(options or {})))


def slimmed(net, universal=False, widths=WIDTHS):
    return SlimmableNet(copy.deepcopy(net), SHAPE, widths, universal=universal)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("universal", [False, True], ids=["switchable", "universal"])
@pytest.mark.parametrize(("arch", "options"), CASES)
def test_at_width_1_it_is_the_plain_network(arch, options, universal):
    net = plain(arch, options)
    ours = slimmed(net, universal)
    x = images()
    close(ours.eval()(x), net.eval()(x))
    close(ours.train()(x), net.train()(x))
    means = [norm.running_mean for norm in norms(net).values()]
    kept = [value for name, value in ours.named_buffers() if name.endswith("3.running_mean")]  # of width 1
    for own, value in zip(kept, means, strict=True):
        close(own, value)


@pytest.mark.parametrize(("arch", "options"), CASES)
def test_each_width_is_a_narrow_network_with_the_first_weights(arch, options):
    net = plain(arch, options)
    ours = with_statistics(slimmed(net))  # now no two widths share their normalisation
    for index, width in enumerate(WIDTHS[:-1]):
        narrow = cut(net, width)
        for name, norm in norms(narrow).items():
            norm.load_state_dict(ours.get_submodule(f"net.{name}.norms.{index}").state_dict())
        x = images()
        with ours.at(width):
            features = ours.eval()(x)
            close(features, narrow.eval()(x))
            close(ours.train()(x), narrow.train()(x))
        assert features.shape[1] == ours.dims[index]


@pytest.mark.parametrize(("arch", "options"), CASES)
def test_any_width_of_a_universal_network_is_a_narrow_network(arch, options):
    net = plain(arch, options)
    ours = slimmed(net, universal=True).train()
    for width in (0.25, 0.37, 0.9):  # one is listed
        narrow = cut(net, width, step=8).train()
        with ours.at(width):
            close(ours(images()), narrow(images()))


def test_half_a_resnet10t_is_the_one_that_timm_builds():
    ours = with_statistics(slimmed(plain("resnet10t"))).eval()
    half = timm.create_model("resnet10t", num_classes=0, channels=(32, 64, 128, 256), stem_width=16).eval()
    trained, state = ours.state_dict(), {}
    for name, value in half.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        own = trained.get(f"net.{name}", trained.get(f"net.{layer}.norms.1.{leaf}"))
        state[name] = own[tuple(slice(count) for count in value.shape)]
    half.load_state_dict(state)
    with ours.at(0.5):
        close(ours(images()), half(images()))
    assert network_macs(lambda: half(images())) < network_macs(lambda: ours(images())) / 3


def test_a_width_trains_its_own_weights_as_the_narrow_network_would():
    net = plain("resnet10t")
    ours, narrow = slimmed(net).train(), cut(net, 0.25).train()
    with ours.at(0.25):
        ours(images()).square().sum().backward()
    narrow(images()).square().sum().backward()
    gradients = dict(ours.net.named_parameters())
    for name, parameter in narrow.named_parameters():
        layer, _, leaf = name.rpartition(".")
        full = gradients.get(name, gradients.get(f"{layer}.norms.0.{leaf}")).grad
        part = tuple(slice(count) for count in parameter.shape)
        torch.testing.assert_close(full[part], parameter.grad, rtol=1e-4, atol=1e-4)
        outside = full.clone()
        outside[part] = 0
        assert not outside.any()


@pytest.mark.parametrize("universal", [False, True])
def test_blurred_networks_are_narrowed_too(universal):
    backbone = TimmBackbone(arch="resnet10t", name="r", channels=3, size=32, blurpool=True)
    with_statistics(backbone)
    full = backbone.eval()(images())
    backbone.net = SlimmableNet(backbone.net, backbone.shape, WIDTHS, universal=universal)
    assert backbone.net.dims == (128, 256, 384, 512)
    close(backbone(images()), full)
    with backbone.net.at(0.25):
        assert backbone(images()).shape == (4, 128)


def test_making_it_slimmable_leaves_mode_and_statistics_alone():
    net = timm.create_model("resnet10t", num_classes=0)
    ours = slimmed(net, universal=True)
    assert ours.training
    assert all(not value for name, value in ours.named_buffers() if "num_batches" in name)
    assert not slimmed(net.eval()).training


@pytest.mark.slow
def test_a_resnet50s_multiply_adds_are_those_published_at_each_width():
    backbone = TimmBackbone(arch="resnet50", name="r", channels=3, size=32)
    backbone.net = SlimmableNet(backbone.net, SHAPE, WIDTHS, universal=False)
    dims = backbone.net.dims
    backbone, image = backbone.to("meta"), torch.empty(1, 3, 224, 224, device="meta")
    found = []
    for width, dim in zip(WIDTHS, dims, strict=True):
        with backbone.net.at(width):
            found.append(network_macs(lambda: backbone(image)) + 1000 * dim)
    assert found == pytest.approx([0.278e9, 1.05e9, 2.32e9, 4.09e9], rel=0.005)
    published = ["278M", "1.1G", "2.3G", "4.1G"]  # Yu et al. (2019), to as many digits as they print
    assert [f"{found[0] / 1e6:.0f}M", *(f"{macs / 1e9:.1f}G" for macs in found[1:])] == published


@given(
    full=st.integers(1, 4096), width=st.floats(0.01, 1), other=st.floats(0.01, 1), together=st.integers(1, 64)
)
def test_universal_widths_keep_whole_groups_in_multiples_of_8(full, width, other, together):
    step = math.lcm(8, together)
    kept = kept_channels(full, width, step)
    assert kept == full or kept % step == 0
    assert min(8, full) <= kept <= full
    assert abs(kept - full * width) <= step / 2 or kept in (full, step)
    narrower, wider = (kept_channels(full, share, step) for share in sorted((width, other)))
    assert wider >= narrower
    assert kept_channels(full, 1.0, step) == full


def test_the_width_is_back_after_an_error():
    ours = slimmed(plain("resnet10t"))
    with pytest.raises(ZeroDivisionError), ours.at(0.25):
        raise ZeroDivisionError
    assert ours.width == 1


@pytest.mark.parametrize("arch", ["resnet10t", "mobilenetv2_050"])
def test_recalibration_finds_the_statistics_of_the_training_batches(arch):
    net = plain(arch)
    ours = slimmed(net, universal=True).eval()
    assert not ours.known(0.5) and ours.known(1.0)
    batches = [images()[:2], images()[2:], images().flip(0) * 2]
    ours.recalibrate(batches)
    assert not ours.training
    for index, width in enumerate(WIDTHS):
        assert ours.known(width)
        narrow = cut(net, width, step=8).train()
        for norm in norms(narrow).values():
            norm.momentum = None  # torch's cumulative mean
            norm.reset_running_stats()
        with torch.no_grad():
            for x in batches:
                narrow(x)
        for name, norm in norms(narrow).items():
            own = ours.get_submodule(f"net.{name}.statistics.{index}")
            torch.testing.assert_close(own.running_mean, norm.running_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own.running_var, norm.running_var, rtol=1e-4, atol=1e-5)
        with ours.at(width):
            torch.testing.assert_close(ours(images()), narrow.eval()(images()), rtol=1e-4, atol=1e-4)


def test_recalibration_changes_no_weight_and_keeps_the_momentum():
    ours = slimmed(plain("resnet10t"), universal=True).train()
    before = {name: value.clone() for name, value in ours.named_parameters()}
    ours.recalibrate([images()])
    assert all(torch.equal(value, before[name]) for name, value in ours.named_parameters())
    assert ours.training
    momenta = {norm.momentum for norm in norms(ours).values()}
    assert momenta == {0.1}


@pytest.mark.parametrize(
    ("arch", "options", "layer"),
    [
        ("test_vit", {"img_size": 32, "patch_size": 4}, "norm1 of VisionTransformer is a LayerNorm"),
        ("convnext_atto", {}, "stem.1 of ConvNeXt is a LayerNorm2d"),
        ("densenet121", {}, "features.conv0 of DenseNet: its channels are concatenated"),
        ("resnet18", {"norm_layer": "groupnorm"}, "bn1 of ResNet is a GroupNorm"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_by_the_name_of_its_layer(arch, options, layer):
    net = timm.create_model(arch, num_classes=0, **options)
    with pytest.raises(UserError, match=layer) as refused:
        SlimmableNet(net, SHAPE, WIDTHS, universal=False)
    assert "model.arch=resnet50" in str(refused.value)


def test_circular_padding_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"))
    with pytest.raises(UserError, match="0 of Sequential pads with padding_mode=circular"):
        SlimmableNet(net, SHAPE, WIDTHS, universal=False)
