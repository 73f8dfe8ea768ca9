"""The width of the features that an image network gives."""

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError


def measure_width(net: nn.Module, shape: tuple[int, int, int], named: str, remedy: str = "") -> int:
    """Return D of the features (B, D) that a network makes of images; its mode is left as it is.

    Args:
        net: Any network; no attribute gives its width for all of them.
        shape: (C, H, W) of one image.
        named: How an error calls the network.
        remedy: What to do where it does not take such images.

    Raises:
        UserError: If the network does not take such images, or gives no features (B, D).
    """
    training = net.training
    try:
        with torch.no_grad():
            features = net.eval()(torch.zeros(1, *shape))
    except Exception as error:  # each network fails in its own way
        raise UserError(
            f"{named} does not take {'x'.join(map(str, shape))} images: {error}",
            expected="images that it can reduce",
            remedy=remedy,
        ) from error
    finally:
        net.train(training)
    if not (isinstance(features, Tensor) and features.ndim == 2):
        given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"{named} gives {given}", expected="features (B, D) of a batch")
    return int(features.shape[1])
