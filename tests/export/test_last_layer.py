"""Networks without the channels that only other features need give the same first features, and cost less."""

import copy

import pytest
import timm
import torch
from methods import as_if_trained
from torch import nn

from mrl_experiments import NestedClassifier, truncate
from mrl_experiments.cost import network_macs
from mrl_experiments.export.last_layer import first_features
from mrl_experiments.models.module_backbone import ModuleBackbone
from mrl_experiments.models.timm_backbone import TimmBackbone


def drawn(network):
    """Return a network whose statistics and scales are not those of a new one, as after training."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


CUT = {
    "test_resnet": {"layer4.0.conv2", "layer4.0.bn2", "layer4.0.downsample.1", "layer4.0.downsample.2"},
    "resnet18": {"layer4.1.conv2", "layer4.1.bn2"},  # a residual branch is read by the next layer too
    "mobilenetv3_small_050": {"conv_head"},
    "efficientnet_b0": {"conv_head", "bn2"},
    "regnety_002": {"s4.b7.conv3.conv", "s4.b7.conv3.bn"},
}
NOT_CUT = ["test_convnext", "test_vit", "seresnet18", "densenet121"]


@pytest.mark.parametrize("arch", [*CUT, *NOT_CUT])
@torch.no_grad()
def test_the_first_features_stay_and_what_others_need_alone_goes(arch):
    network = drawn(timm.create_model(arch, num_classes=0, **({"img_size": 32} if "vit" in arch else {})))
    before, x = copy.deepcopy(network.state_dict()), torch.randn(3, 3, 32, 32)
    expected = network(x)
    dim = expected.shape[1] // 8
    small, cut = first_features(network, dim, x)
    assert {*cut} - {"features.norm5"} == CUT.get(arch, set())
    torch.testing.assert_close(small(x)[:, :dim], expected[:, :dim], atol=1e-5, rtol=1e-5)
    for size, batch in ((48, 1), (32, 5)) if "vit" not in arch else ():
        y = torch.randn(batch, 3, size, size)
        torch.testing.assert_close(small(y)[:, :dim], network(y)[:, :dim], atol=1e-5, rtol=1e-5)
    costs = [network_macs(lambda net=net: net(x[:1])) for net in (network, small)]
    assert costs[1] < costs[0] if arch in CUT else costs[0] == costs[1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    if cut:
        weights = {name: one for name, one in small.named_parameters() if name not in dict(before)}
        assert not weights and sum(p.numel() for p in small.parameters()) < sum(
            p.numel() for p in network.parameters()
        )


class Odd(nn.Module):
    """Ends in what mixes channels, or reads its last layer twice."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.kind == "grouped":
            x = nn.functional.group_norm(x, 4)
        if self.kind == "read twice":
            x = x * x.mean(dim=1, keepdim=True)
        if self.kind == "depends on values":
            x = x if x.sum() > 0 else -x
        if self.kind == "flattened":
            return nn.functional.avg_pool2d(x, 8).flatten(1)
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize("kind", ["plain", "grouped", "read twice", "depends on values", "flattened"])
@torch.no_grad()
def test_only_what_is_exact_is_cut(kind):
    network, x = drawn(Odd(kind)), torch.randn(2, 3, 16, 16)
    small, cut = first_features(network, 4, x)
    assert cut == (["norm", "conv"] if kind == "plain" else [])
    assert (small is network) == (kind != "plain")
    torch.testing.assert_close(small(x)[:, :4], network(x)[:, :4])


@torch.no_grad()
def test_truncate_cuts_and_tells_what(tmp_path):
    backbone = TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=32)
    method = as_if_trained(NestedClassifier(drawn(backbone), 7)).eval()
    x = torch.randn(4, 1, 32, 32)
    logits = method.logits(method.embed(x))
    for dim in method.spec.dims:
        small = truncate(method, dim)
        torch.testing.assert_close(small(x), logits[dim], atol=1e-5, rtol=1e-5)
        assert bool(small.cut) == (dim < 96) and not small.training
        torch.save(small.state_dict(), tmp_path / "weights.pt")
        small.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert truncate(method.train(), 12).cut == ()
    own = ModuleBackbone(nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), channels=1, size=8)
    assert truncate(NestedClassifier(own, 7).eval(), 8).cut == ("net.1",)
