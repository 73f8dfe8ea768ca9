"""Plain narrow networks, cut out of a slimmable one with the tools of plain PyTorch."""

import copy
import math

import torch
from torch import nn


def with_statistics(net: nn.Module) -> nn.Module:
    """Draw the affine weights and statistics of all normalisations, as training would have moved them."""
    for module in net.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.ndim == 1 and "Norm" in type(module).__name__:
                low = 0.5 if name in ("weight", "running_var") else -0.5
                tensor.data.uniform_(low, low + 1)
    return net


def nearest(full: int, share: float, step: int = 1) -> int:
    """Return the multiple of `step` nearest to a share of the channels, at least one of them."""
    return min(full, step * max(1, math.floor(full * share / step + 0.5)))


def cut(plain: nn.Module, share: float, step: int = 1) -> nn.Module:
    """Return a copy of a CNN whose layers keep the first channels; it consists of torch's own layers.

    Layers as wide as a grouped convolution keep whole groups.
    """
    net = copy.deepcopy(plain)
    layers = [module for module in net.modules() if hasattr(module, "weight")]
    grouped = [layer for layer in layers if getattr(layer, "groups", 1) > 1]
    assert all(layer.in_channels == layer.out_channels for layer in grouped)
    groups = [(layer.in_channels, layer.in_channels // layer.groups) for layer in grouped]

    def kept(full: int) -> int:
        return nearest(full, share, math.lcm(step, *(size for channels, size in groups if channels == full)))

    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                layer.groups = kept(layer.in_channels) * layer.groups // layer.in_channels
                inputs = layer.weight.shape[1]
            else:
                inputs = kept(layer.in_channels) if number else layer.in_channels
            layer.weight = nn.Parameter(layer.weight[: kept(layer.out_channels), :inputs].detach().clone())
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[: len(layer.weight)].detach().clone())
        elif isinstance(layer, nn.BatchNorm2d):
            shorten(layer, kept(layer.num_features))
        else:
            raise AssertionError(f"{type(layer).__name__} is not cut here")
    return net


def shorten(norm: nn.BatchNorm2d, count: int) -> None:
    norm.num_features = count
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name)[:count].detach().clone()))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[:count].clone())


def norms(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
