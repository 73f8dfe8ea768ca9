"""Convolutions of maps of a few pixels as one matrix product, which a CPU does several times faster."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Pixels of a map times those of the result; with more of them, idle multiply-adds cost more than is saved.
MOST_PAIRS = {torch.bfloat16: 81, torch.float16: 81}  # 3x3 to 3x3
MOST_PAIRS_FLOAT32 = 36  # 3x3 to 2x2
FEWEST_IMAGES = 8  # from which on it pays to lay out the weights


class SmallMapConv2d(nn.Conv2d):
    """A convolution that meets small maps on a CPU with a matrix product, and all others as usual.

    Where a 3x3 kernel hangs over a map of 1x1 or 2x2, the kernels of oneDNN multiply the padding too, and
    their gradients take up to ten times as long as the product of what is inside; from 4x4 to 2x2, twice as
    long in bfloat16. The result is the same but for rounding, and so are the parameters.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as `nn.Conv2d` does."""
        elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling()
        if elsewhere or len(x) < FEWEST_IMAGES:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if self._pairs(x.shape[2:]) > MOST_PAIRS.get(x.dtype, MOST_PAIRS_FLOAT32):
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1)  # as channels_last has them in memory
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0):
            product = F.linear(pixels, self.weight.flatten(1), self.bias)
        else:
            product = _SmallConvolution.apply(self, pixels.flatten(1), self.weight, x.shape[2:])
            product = product if self.bias is None else product + self.bias.to(product.dtype)
        return product.permute(0, 3, 1, 2)

    def _pairs(self, side: torch.Size) -> int:
        pairs, paddings = 1, cast(tuple[int, int], self.padding)  # `quicken_small_maps` takes no other
        for length, kernel, step, padding in zip(side, self.kernel_size, self.stride, paddings, strict=True):
            pairs *= length * ((length + 2 * padding - kernel) // step + 1)
        return pairs


def quicken_small_maps(module: nn.Module) -> None:
    """Let the plain convolutions inside `module` be such, in place; parameters and their names stay."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _plain(layer):
            layer.__class__ = SmallMapConv2d


def _plain(conv: nn.Conv2d) -> bool:
    padded = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return padded and conv.groups == 1 and conv.dilation == (1, 1)


class _SmallConvolution(torch.autograd.Function):
    """All pixels (B, H W C) times a matrix (H' W' O, H W C), whose blocks are windows of the kernel."""

    @staticmethod
    def forward(ctx: Any, conv: nn.Conv2d, pixels: Tensor, weight: Tensor, side: torch.Size) -> Tensor:
        places, parts = _parts(conv, side)
        whole = all(inside == (slice(0, side[0]), slice(0, side[1])) for inside, _ in parts)
        shape = (len(parts), len(weight), *side, weight.shape[1])
        matrix = pixels.new_empty(shape) if whole else pixels.new_zeros(shape)
        for block, (inside, window) in zip(matrix, parts, strict=True):
            block[:, *inside] = weight[:, :, *window].permute(0, 2, 3, 1)
        ctx.parts, ctx.weight = parts, weight
        ctx.save_for_backward(pixels, matrix)
        return F.linear(pixels, matrix.view(-1, pixels.shape[1])).view(len(pixels), *places, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pixels, matrix = ctx.saved_tensors
        grad = grad.flatten(1)
        grad_pixels = grad @ matrix.view(-1, pixels.shape[1])
        grad_matrix = (grad.t() @ pixels).view_as(matrix)
        grad_weight = torch.zeros_like(ctx.weight)
        for block, (inside, window) in zip(grad_matrix, ctx.parts, strict=True):
            grad_weight[:, :, *window] += block[:, *inside].permute(0, 3, 1, 2)
        return None, grad_pixels, grad_weight, None


def _parts(conv: nn.Conv2d, side: torch.Size) -> tuple[list[int], list[Any]]:
    """Return H' and W', and for each place of the result its pixels and the taps of the kernel they meet."""
    axes, paddings = [], cast(tuple[int, int], conv.padding)  # `quicken_small_maps` takes no other
    for length, kernel, step, padding in zip(side, conv.kernel_size, conv.stride, paddings, strict=True):
        starts = range(-padding, length + padding - kernel + 1, step)
        axes.append([_overlap(start, kernel, length) for start in starts])
    pairs = [((row[0], column[0]), (row[1], column[1])) for row in axes[0] for column in axes[1]]
    return [len(axis) for axis in axes], pairs


def _overlap(start: int, kernel: int, length: int) -> tuple[slice, slice]:
    """Return which pixels a kernel that starts at `start` covers, and with which of its taps."""
    low, high = max(start, 0), min(start + kernel, length)
    return slice(low, high), slice(low - start, high - start)
