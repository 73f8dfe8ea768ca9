"""A network that computes no more than the first features: the last layer without the others' channels."""

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mrl_experiments.nesting import prefix

# What treats each channel of (B, C, ...) by itself, so that the first ones of its output need only the first
# ones of its input.
BY_CHANNEL = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.LeakyReLU, nn.ELU, nn.Tanh),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Dropout, nn.Dropout2d, nn.Flatten),
    *(nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d),
)
FUNCTIONS = {F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.dropout, torch.relu, F.adaptive_avg_pool2d}
SUMS = {operator.add, operator.iadd, torch.add, operator.mul, torch.mul}
LEAVES = (nn.Conv2d, nn.Linear, _BatchNorm)
CLOSE = 1e-5  # of the largest feature: rounding of the same sums in another order


class _Tracer(fx.Tracer):
    """Keep layers whose channels can be cut as one call each, timm's versions too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def first_features(network: nn.Module, dim: int, example: Tensor) -> tuple[nn.Module, list[str]]:
    """Return a network that gives only the first `dim` features of another, and the names of what was cut.

    Going back from the output, channels are left out of the layers whose others nobody reads: convolutions,
    batch normalization and linear layers at the end, before pooling. Where the same values are read
    elsewhere too, as by a residual branch, the first channels of them are taken. Nothing else changes, so
    the features are the same; of a network that mixes all channels at its end, as layer normalization does,
    nothing can be left out, and it is returned as it is.

    Args:
        network: In evaluation mode; it is not changed, and shares all other layers with what is returned.
        dim: At most its number of features.
        example: An input (B, ...), by which shapes are known and the result is compared.

    Returns:
        A network whose features are (B, dim), and the names of the layers that were cut; or `network` itself
        with its features (B, D), and no names.
    """
    try:
        with torch.no_grad():
            expected = network(example)
            traced = fx.GraphModule(network, _Tracer().trace(network))
            fx.passes.shape_prop.ShapeProp(traced).propagate(example)
            cut = _Cut(traced, dim)
            (output,) = [node for node in traced.graph.nodes if node.op == "output"]
            (features,) = output.args
            if expected.ndim != 2 or not isinstance(features, fx.Node):
                return network, []
            output.args = (cut.narrowed(features, output),)
            traced.graph.eliminate_dead_code()
            traced.recompile()
            found = traced(example)
            wanted = prefix(expected, dim)
    except Exception:  # networks whose Python depends on their input cannot be traced, each in its own way
        return network, []
    same = found.shape == wanted.shape and (found - wanted).abs().max() <= CLOSE * wanted.abs().max()
    return (traced, cut.layers) if cut.layers and same else (network, [])


class _Cut:
    """Changes a traced network in place.

    Attributes:
        layers: The names of the layers that were cut.
    """

    def __init__(self, traced: fx.GraphModule, dim: int) -> None:
        self.traced, self.dim, self.layers = traced, dim, list[str]()
        self.modules = dict(traced.named_modules())

    def narrowed(self, node: fx.Node, reader: fx.Node) -> fx.Node:
        """Return a node with the first channels of `node`, for `reader`."""
        if _channels(node) == self.dim:
            return node
        alone = len(node.users) == 1
        if alone and node.op == "call_module" and (layer := self._layer(node)) is not None:
            return layer
        kept = alone and node.op in ("call_function", "call_method") and self._keeps_channels(node)
        if kept:
            summed = node.op == "call_function" and node.target in SUMS
            node.args = tuple(
                self.narrowed(arg, node) if isinstance(arg, fx.Node) and (summed or place == 0) else arg
                for place, arg in enumerate(node.args)
            )
            return node
        with self.traced.graph.inserting_before(reader):
            return self.traced.graph.call_function(
                operator.getitem, (node, (slice(None), slice(None, self.dim)))
            )

    def _keeps_channels(self, node: fx.Node) -> bool:
        """Return whether a function gives, for each channel, what the same channel of its inputs makes."""
        inputs = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if not inputs or any(_channels(one) != _channels(node) for one in inputs):
            return False
        if node.op == "call_method":  # after a pooling, features (B, C, 1, 1) become (B, C)
            return node.target in ("flatten", "contiguous", "relu") or (
                node.target == "mean" and 1 not in _axes(node.args[1:], node.kwargs, _rank(inputs[0]))
            )
        if node.target in SUMS:
            return len(inputs) == 2 and _rank(inputs[0]) == _rank(inputs[1]) == _rank(node)
        return node.target in FUNCTIONS

    def _layer(self, node: fx.Node) -> fx.Node | None:
        """Return the node of a layer once it has only the first channels, or None where it mixes them."""
        name = str(node.target)
        layer, (given, *others) = self.modules[name], node.args
        if others or not isinstance(given, fx.Node) or self._called_again(name):
            return None
        if isinstance(layer, BY_CHANNEL) and _channels(given) == _channels(node):
            node.args = (self.narrowed(given, node),)
            return node
        if isinstance(layer, _BatchNorm) and not any(
            True for one in layer.children() for _ in one.parameters()
        ):
            self._replace(name, layer, ("weight", "bias", "running_mean", "running_var"), "num_features")
            node.args = (self.narrowed(given, node),)
            return node
        plain = isinstance(layer, nn.Conv2d) and layer.groups == 1
        if plain or (isinstance(layer, nn.Linear) and _rank(node) == 2):
            self._replace(name, layer, ("weight", "bias"), "out_channels" if plain else "out_features")
            return node
        return None

    def _called_again(self, name: str) -> bool:
        return sum(node.op == "call_module" and node.target == name for node in self.traced.graph.nodes) > 1

    def _replace(self, name: str, layer: nn.Module, tensors: tuple[str, ...], count: str) -> None:
        """Put a layer with the first channels in place of another, which stays as it is."""
        small = copy.copy(layer)
        small._parameters, small._buffers = dict(layer._parameters), dict(layer._buffers)
        for tensor in tensors:
            value = getattr(layer, tensor)
            if value is not None:
                first = value.detach()[: self.dim].clone()
                is_parameter = isinstance(value, nn.Parameter)
                setattr(small, tensor, nn.Parameter(first, value.requires_grad) if is_parameter else first)
        setattr(small, count, self.dim)
        self.traced.set_submodule(name, small)
        self.modules[name] = small
        self.layers.append(name)


def _channels(node: fx.Node) -> int | None:
    shape = _shape(node)
    return shape[1] if shape is not None and len(shape) > 1 else None


def _rank(node: fx.Node) -> int:
    return len(_shape(node) or ())


def _shape(node: fx.Node) -> torch.Size | None:
    shape: torch.Size | None = getattr(node.meta.get("tensor_meta"), "shape", None)
    return shape


def _axes(args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> set[int]:
    given = args[0] if args else kwargs.get("dim", range(rank))
    return {axis % rank for axis in (given if isinstance(given, list | tuple | range) else [given])}
