"""A timm CNN made slimmable: one set of weights that runs at several widths.

Slimmable networks: Yu et al., ICLR 2019. Universally slimmable networks: Yu and Huang, ICCV 2019.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from mrl_experiments.errors import UserError

UNIVERSAL_MULTIPLE = 8  # of the channels of a universal network, and so their floor
SUPPORTED = (nn.Conv2d, Conv2dSame, nn.Linear, nn.BatchNorm2d, BatchNormAct2d)


class SlimmableNet(nn.Module):
    """A CNN that runs at the width it is told, at full width unless told otherwise.

    The network stays the one that timm builds. At a narrower width it is called with the first channels of
    its weights, weight[:out, :in]; layers of equally many channels keep equally many of them, so whatever is
    added up fits together. Each width listed has batch normalization of its own: weights and statistics
    (S-Net), or, of a `universal` network, statistics alone. That one runs at any width in training, with the
    statistics of the batch; its channels come in multiples of 8, and `recalibrate` measures the statistics
    of the listed widths.

    Args:
        net: The network, changed in place.
        shape: (C, H, W) of its images, in pixels.
        widths: Shares of the channels, ascending to 1.
        universal: Whether any width may run, as above.

    Attributes:
        dims: The number of features at each width.

    Raises:
        UserError: Naming the first layer that cannot be narrowed.
    """

    def __init__(
        self, net: nn.Module, shape: tuple[int, int, int], widths: Sequence[float], *, universal: bool
    ) -> None:
        super().__init__()
        self.training = net.training
        _refuse_unsupported(net)
        self.net, self.widths, self.universal, self.width = net, tuple(widths), universal, 1.0
        self._together = _kept_together(net)
        named = list(net.named_modules())
        self._layers = [name for name, module in named if isinstance(module, nn.Conv2d | nn.Linear)]
        self._norms = [name for name, module in named if isinstance(module, nn.BatchNorm2d)]
        # What each width has of a batch normalization, by its name in checkpoints.
        self._child = "statistics" if universal else "norms"
        for norm in map(self._module, self._norms):
            self._split(norm)
        self.dims = tuple(self._measure(width, shape) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, d) that the active width has of images x (B, C, H, W)."""
        return functional_call(self.net, dict(self._tensors()), (x,))

    @contextmanager
    def at(self, width: float) -> Iterator[None]:
        """Run at a width inside a `with` block."""
        before, self.width = self.width, width
        try:
            yield
        finally:
            self.width = before

    def known(self, width: float) -> bool:
        """True if a listed width has the statistics that evaluation needs."""
        own = [self._own(norm, width) for norm in map(self._module, self._norms[:1])]
        return width == 1 or not self.universal or all(norm.num_batches_tracked for norm in own)

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Replace the statistics of all listed widths by means over batches (B, C, H, W) of all processes."""
        training, norms = self.training, [self._module(name) for name in self._norms]
        momenta = [norm.momentum for norm in norms]
        self.eval()  # no dropout; the norms alone look at the batch
        for norm in norms:
            norm.training, norm.momentum = True, None  # torch's mean over all batches
            for own in getattr(norm, self._child):
                own.reset_running_stats()
        for x in batches:
            for width in self.widths:
                with self.at(width):
                    self(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.train(training)
        if dist.is_available() and dist.is_initialized():
            for value in filter(torch.is_floating_point, self.buffers()):
                dist.all_reduce(value)
                value.div_(dist.get_world_size())

    def _module(self, name: str) -> Any:
        return self.net.get_submodule(name)

    def _own(self, norm: Any, width: float) -> nn.BatchNorm2d:
        """Return the part of a batch normalization that a listed width has for itself."""
        return getattr(norm, self._child)[self.widths.index(width)]

    def _channels(self, full: int) -> int:
        """Return how many of `full` channels the active width keeps."""
        step = math.lcm(UNIVERSAL_MULTIPLE if self.universal else 1, self._together.get(full, 1))
        return kept_channels(full, self.width, step)

    def _split(self, norm: nn.BatchNorm2d) -> None:
        """Give each listed width the first channels of what it is to have for itself, and `norm` none."""
        state, parts = norm.state_dict(), nn.ModuleList()
        for width in self.widths:
            with self.at(width):
                count = self._channels(norm.num_features)
            own = nn.BatchNorm2d(count, affine=not self.universal).to(norm.weight)
            first = {name: value[:count] if value.ndim else value for name, value in state.items()}
            own.load_state_dict({name: first[name] for name in own.state_dict()})
            parts.append(own)
        for name in parts[0].state_dict():
            setattr(norm, name, None)
        norm.add_module(self._child, parts)
        norm.register_load_state_dict_pre_hook(_forget_added_count)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters and buffers that the network has at the active width, by name."""
        for name in self._layers:
            layer = self._module(name)
            out, inputs = self._channels(len(layer.weight)), layer.weight.shape[1]
            if getattr(layer, "in_channels", inputs) > inputs:
                layer.groups = self._channels(layer.in_channels) // inputs
                if layer.groups * len(layer.weight) * inputs != out * layer.in_channels:
                    raise ValueError(f"the groups of {name} cannot be kept together")
            elif name != self._layers[0]:  # which sees the image
                inputs = self._channels(inputs)
            yield f"{name}.weight", _first(layer.weight, out, inputs)
            if layer.bias is not None:
                yield f"{name}.bias", _first(layer.bias, out)
        listed = self.width in self.widths
        assert listed or self.training, f"no batch normalization of width {self.width}"
        for name in self._norms:
            norm = self._module(name)
            for key, value in norm.named_parameters(recurse=False):  # which all widths share
                yield f"{name}.{key}", _first(value, self._channels(len(value)))
            if listed:
                own = self._own(norm, self.width)
                for key, value in itertools.chain(own.named_parameters(), own.named_buffers()):
                    yield f"{name}.{key}", value

    @torch.no_grad()
    def _measure(self, width: float, shape: tuple[int, int, int]) -> int:
        """Run once and return the number of features; torch compares each layer's channels with its input."""
        training, names = self.training, {self._module(name): name for name in self._layers}
        entered = ["the input"]

        def note(layer: nn.Module, _: Any) -> None:
            entered.append(names.get(layer, entered[-1]))

        try:
            with self.at(width), register_module_forward_pre_hook(note), _NoConcatenation():
                features: Tensor = self.eval()(torch.zeros(1, *shape))
        except (RuntimeError, ValueError) as error:
            where = f"{entered[-1]} of {type(self.net).__name__}"
            raise _refusal(f"at width {width}, {where}: {error}") from error
        finally:
            self.train(training)
        return features.shape[1]


def kept_channels(full: int, share: float, step: int) -> int:
    """Return the multiple of `step` nearest to a share of `full` channels, at least one of it."""
    return full if share == 1 else min(full, step * max(1, math.floor(full * share / step + 0.5)))


def _first(tensor: Tensor, *counts: int) -> Tensor:
    """Return tensor[:counts[0], :counts[1], ...]; the tensor itself where that is all of it."""
    return tensor if tensor.shape[: len(counts)] == counts else tensor[tuple(map(slice, counts))]


def _forget_added_count(norm: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take out the count that torch adds for a batch normalization where a checkpoint has none."""
    state.pop(f"{prefix}num_batches_tracked", None)


class _NoConcatenation(TorchFunctionMode):
    """Refuse to concatenate: the first channels of what comes out are not those of the full network."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.cat, torch.concat, torch.concatenate):
            raise ValueError(
                "its channels are concatenated with others, so a narrow network has other inputs"
            )
        return func(*args, **(kwargs or {}))


def _refuse_unsupported(net: nn.Module) -> None:
    """Raise UserError naming the first layer with tensors of its own that has no narrower version."""
    for name, module in [*itertools.islice(net.named_modules(), 1, None), ("it", net)]:
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if tensors and type(module) not in SUPPORTED and not getattr(module, "any_channels", False):
            raise _refusal(f"{name} of {type(net).__name__} is a {type(module).__name__}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise _refusal(f"{name} of {type(net).__name__} pads with padding_mode={module.padding_mode}")


def _refusal(problem: str) -> UserError:
    return UserError(
        f"loss=slim cannot narrow this network: {problem}",
        expected="a CNN of convolutions, BatchNorm and linear layers that adds up channels, not concatenates",
        remedy="model.arch=resnet50, resnext50_32x4d, mobilenetv2_100, efficientnet_b0, ..., or another loss",
    )


def _kept_together(net: nn.Module) -> dict[int, int]:
    """Return {C: channels that stay together} of the inputs and outputs of grouped convolutions."""
    together: dict[int, int] = {}
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            for full in (module.in_channels, module.out_channels):
                together[full] = math.lcm(together.get(full, 1), full // module.groups)
    return together
