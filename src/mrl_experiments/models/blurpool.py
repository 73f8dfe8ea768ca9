"""Low-pass filters before strided convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_CHANNELS = 16


class BlurredConv2d(nn.Module):
    """Blur with a 3x3 binomial filter, then convolve with the stride (Zhang, 2019).

    The paper's recipe puts it on every strided convolution with at least 16 input channels.
    """

    any_channels = True  # runs with as many channels as its input has, so a slimmable network keeps it
    kernel: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (torch.outer(row, row) / 16).expand(conv.in_channels, 1, 3, 3)
        self.register_buffer("kernel", kernel.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) as the wrapped convolution does."""
        channels = x.shape[1]
        kernel = self.kernel[:channels].to(x.dtype)
        return self.conv(F.conv2d(x, kernel, padding=1, groups=channels))


def blur_strided_convolutions(module: nn.Module) -> int:
    """Wrap each strided convolution inside `module` in place; return how many were wrapped."""
    wrapped = 0
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            if max(child.stride) > 1 and child.in_channels >= MIN_CHANNELS:
                setattr(module, name, BlurredConv2d(child))
                wrapped += 1
        else:
            wrapped += blur_strided_convolutions(child)
    return wrapped
