"""Layers of a slimmable network: each runs with the first of its channels, as many as the width leaves."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, nn


class ActiveWidth:
    """The share of its channels that a slimmable network runs at; one object, which all its layers ask.

    Layers of equally many channels C keep equally many of them, so whatever is added up fits together.

    Args:
        widths: Those that have statistics of their own, ascending to 1.
        multiple: A narrowed layer keeps a multiple of this, at least one. It is also the floor.
        together: {C: channels that are kept or left together}, since they are one group of a convolution.
    """

    def __init__(self, widths: Sequence[float], multiple: int, together: Mapping[int, int]) -> None:
        self.widths, self.multiple, self.together = tuple(widths), multiple, dict(together)
        self.width = 1.0

    @property
    def index(self) -> int | None:
        """The index of the active width among `widths`; None for one that is not listed."""
        return self.widths.index(self.width) if self.width in self.widths else None

    def channels(self, full: int, width: float | None = None) -> int:
        """Return how many channels a width keeps: the nearest number allowed, a half rounded up.

        Args:
            full: All channels of the layer.
            width: By default the active one.
        """
        share = self.width if width is None else width
        if share == 1:
            return full
        step = math.lcm(self.multiple, self.together.get(full, 1))
        return min(full, step * max(1, math.floor(full * share / step + 0.5)))

    @contextmanager
    def at(self, width: float) -> Iterator[None]:
        """Run at another width inside a `with` block."""
        before, self.width = self.width, width
        try:
            yield
        finally:
            self.width = before


class SlimConv2d(nn.Module):
    """A convolution from the channels it is given to those that are active, group by group where grouped."""

    def __init__(self, conv: nn.Conv2d, active: ActiveWidth) -> None:
        super().__init__()
        self.active = active
        self.weight, self.bias = conv.weight, conv.bias
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.stride, self.dilation = conv.stride, conv.dilation
        self.same = isinstance(conv, Conv2dSame)  # pads by the size of its input
        self.padding: str | tuple[int, ...] = 0 if self.same else conv.padding  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, active inputs, H, W) to (B, active outputs, H', W')."""
        if self.same:
            x = pad_same(x, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        weight = self.weight[: self.active.channels(self.out_channels)]
        bias = None if self.bias is None else self.bias[: len(weight)]
        if self.groups == 1:
            groups, weight = 1, weight[:, : x.shape[1]]
        else:
            groups = x.shape[1] * self.groups // self.in_channels
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)


class SlimLinear(nn.Module):
    """A linear layer from the features it is given to those that are active."""

    def __init__(self, linear: nn.Linear, active: ActiveWidth) -> None:
        super().__init__()
        self.active = active
        self.weight, self.bias = linear.weight, linear.bias
        self.in_channels, self.out_channels = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., active inputs) to (..., active outputs)."""
        weight = self.weight[: self.active.channels(self.out_channels), : x.shape[-1]]
        return F.linear(x, weight, None if self.bias is None else self.bias[: len(weight)])


class SwitchableBatchNorm2d(nn.Module):
    """A batch normalization of its own for each listed width, with weights and statistics (S-Net)."""

    def __init__(self, norm: nn.BatchNorm2d, active: ActiveWidth) -> None:
        super().__init__()
        self.active = active
        self.norms = _narrowed(norm, active)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, active channels, H, W). Only for listed widths."""
        index = self.active.index
        assert index is not None, f"width {self.active.width} has no batch normalization of its own"
        normalized: Tensor = self.norms[index](x)
        return normalized


class UniversalBatchNorm2d(nn.Module):
    """A batch normalization whose weights all widths share, with statistics of the listed widths (US-Net).

    Training uses a batch's own statistics at any width. A listed width that training or `recalibrate` meets
    gathers statistics on the way; without them there is no evaluation.
    """

    def __init__(self, norm: nn.BatchNorm2d, active: ActiveWidth) -> None:
        super().__init__()
        self.active = active
        self.weight, self.bias = norm.weight, norm.bias
        self.momentum, self.eps = norm.momentum, norm.eps
        plain = nn.BatchNorm2d(norm.num_features, affine=False)
        plain.load_state_dict({name: value for name, value in norm.named_buffers(recurse=False)})
        self.statistics = _narrowed(plain, active)
        self.after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()

    def known(self, width: float) -> bool:
        """True if a listed width has gathered statistics."""
        return bool(self.statistics[self.active.widths.index(width)].num_batches_tracked)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, active channels, H, W)."""
        index, count, mean, variance = self.active.index, x.shape[1], None, None
        if index is not None:
            stored = self.statistics[index]
            mean, variance = stored.running_mean, stored.running_var
            if self.training:
                stored.num_batches_tracked.add_(1)  # type: ignore[operator]
        weight, bias = self.weight[:count], self.bias[:count]
        momentum = self.momentum or 0.0
        normalized = F.batch_norm(x, mean, variance, weight, bias, self.training, momentum, self.eps)  # type: ignore[arg-type]
        after: Tensor = self.after(normalized)
        return after


def _narrowed(norm: nn.BatchNorm2d, active: ActiveWidth) -> nn.ModuleList:
    """Copy the first channels of a batch normalization for each listed width.

    The activation that timm may have put inside comes along.
    """
    copies = nn.ModuleList()
    for width in active.widths:
        narrow, count = copy.deepcopy(norm), active.channels(norm.num_features, width)
        narrow.num_features = count
        for name, parameter in norm.named_parameters(recurse=False):
            setattr(narrow, name, nn.Parameter(parameter.detach()[:count].clone()))
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(narrow, name, (buffer[:count] if buffer.ndim else buffer).clone())
        copies.append(narrow)
    return copies
