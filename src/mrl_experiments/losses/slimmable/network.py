"""A timm CNN made slimmable: one set of weights that runs at several widths.

Slimmable networks: Yu et al., ICLR 2019. Universally slimmable networks: Yu and Huang, ICCV 2019.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mrl_experiments.errors import UserError
from mrl_experiments.losses.slimmable.layers import (
    ActiveWidth,
    SlimConv2d,
    SlimLinear,
    SwitchableBatchNorm2d,
    UniversalBatchNorm2d,
)

UNIVERSAL_MULTIPLE = 8  # of the channels of a universal network, and so their floor
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class SlimmableNet(nn.Module):
    """A CNN that runs at the width it is told, at full width unless told otherwise.

    Layer by layer, a width keeps the first channels: weights[:out, :in]. BatchNorm is one a width
    (`universal=False`) or shared by any width; then channels come in multiples of 8 and `recalibrate` gives
    listed widths their statistics.

    Args:
        net: The network, rewired in place.
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
        self.active = ActiveWidth(widths, UNIVERSAL_MULTIPLE if universal else 1, _kept_together(net))
        self.net = net
        _replace(net, self.active, UniversalBatchNorm2d if universal else SwitchableBatchNorm2d)
        self.dims = tuple(self._measure(width, shape) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, d) that the active width has of images x (B, C, H, W)."""
        features: Tensor = self.net(x)
        return features

    def at(self, width: float) -> AbstractContextManager[None]:
        """Run at a width inside a `with` block."""
        return self.active.at(width)

    def known(self, width: float) -> bool:
        """True if a listed width has the statistics that evaluation needs."""
        return width == 1 or all(norm.known(width) for norm in self._universal_norms()[:1])

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Replace the statistics of all listed widths by means over batches (B, C, H, W) of all processes."""
        norms, training = self._universal_norms(), self.training
        momenta = [norm.momentum for norm in norms]
        self.eval()  # no dropout; the norms alone look at the batch
        for number, x in enumerate(batches, start=1):
            for norm in norms:
                norm.training, norm.momentum = True, 1 / number
            for width in self.active.widths:
                with self.at(width):
                    self.net(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.train(training)
        if dist.is_available() and dist.is_initialized():
            for value in filter(torch.is_floating_point, self.buffers()):
                dist.all_reduce(value)
                value.div_(dist.get_world_size())

    def _universal_norms(self) -> list[UniversalBatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, UniversalBatchNorm2d)]

    @torch.no_grad()
    def _measure(self, width: float, shape: tuple[int, int, int]) -> int:
        """Run once and return the number of features; each layer must be given the channels it expects."""
        training, name = self.training, type(self.net).__name__
        entered = ["the input"]
        try:
            with self.at(width), _watched(self.net, self.active, entered), _NoConcatenation():
                features: Tensor = self.net.eval()(torch.zeros(1, *shape))
        except (RuntimeError, ValueError, _Unfit) as error:
            raise _refusal(f"at width {width}, {entered[-1]} of {name}: {error}") from error
        finally:
            self.train(training)
        return features.shape[1]


class _Unfit(Exception):
    """What a network does that leaves narrow layers without the channels they expect."""


class _NoConcatenation(TorchFunctionMode):
    """Refuse to concatenate: the first channels of what comes out are not those of the full network."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.cat, torch.concat, torch.concatenate):
            raise _Unfit("its channels are concatenated with others, so a narrow network has other inputs")
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched(net: nn.Module, active: ActiveWidth, entered: list[str]) -> Iterator[None]:
    """Check the channels of each layer's input and note the layer; the first convolution sees the image."""

    def check(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def before(layer: nn.Module, args: tuple[Tensor]) -> None:
            assert isinstance(layer, SlimConv2d | SlimLinear)
            full, first = layer.in_channels, len(entered) == 1
            entered.append(name)
            given = args[0].shape[1 if isinstance(layer, SlimConv2d) else -1]
            expected = full if first else active.channels(full)
            if given != expected:
                raise _Unfit(f"it is given {given} channels and expects {expected} of {full}")
            if isinstance(layer, SlimConv2d) and layer.groups > 1:
                out = active.channels(layer.out_channels)
                if given * layer.out_channels != out * full:
                    raise _Unfit(f"its groups of {full // layer.groups} channels cannot be kept together")

        return before

    handles = [
        module.register_forward_pre_hook(check(name))
        for name, module in net.named_modules()
        if isinstance(module, SlimConv2d | SlimLinear)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_unsupported(net: nn.Module) -> None:
    """Raise UserError naming the first layer with tensors of its own that has no narrower version."""
    supported = {*CONVOLUTIONS, *NORMS, nn.Linear}
    named = [(name, module) for name, module in net.named_modules() if name] + [("it", net)]
    for name, module in named:
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if tensors and type(module) not in supported and not getattr(module, "any_channels", False):
            raise _refusal(f"{name} of {type(net).__name__} is a {type(module).__name__}")
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise _refusal(f"{name} of {type(net).__name__} pads with padding_mode={module.padding_mode}")


def _refusal(problem: str) -> UserError:
    return UserError(
        f"loss=slim cannot narrow this network: {problem}",
        expected="a CNN of convolutions, BatchNorm and linear layers that adds up channels, not concatenates",
        remedy="model.arch=resnet50, resnext50_32x4d, mobilenetv2_100, efficientnet_b0, ..., or another loss",
    )


def _kept_together(net: nn.Module) -> dict[int, int]:
    """Return {C: channels that stay together} of the inputs and outputs of grouped convolutions."""
    together: dict[int, int] = defaultdict(lambda: 1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            for full in (module.in_channels, module.out_channels):
                together[full] = math.lcm(together[full], full // module.groups)
    return together


def _replace(
    module: nn.Module, active: ActiveWidth, norm: type[SwitchableBatchNorm2d] | type[UniversalBatchNorm2d]
) -> None:
    for name, child in module.named_children():
        if isinstance(child, CONVOLUTIONS):
            setattr(module, name, SlimConv2d(child, active))
        elif isinstance(child, NORMS):
            setattr(module, name, norm(child, active))
        elif isinstance(child, nn.Linear):
            setattr(module, name, SlimLinear(child, active))
        else:
            _replace(child, active, norm)
