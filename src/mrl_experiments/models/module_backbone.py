"""Any module that gives features as a backbone."""

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError


class ModuleBackbone(nn.Module):
    """A module of the user's own, whose features have the width that they turn out to have.

    Args:
        module: Maps images (B, channels, size, size) to features (B, D).
        name: How tables call it.
        channels: Of the images.
        size: Their side in pixels.

    Attributes:
        width: D.

    Raises:
        UserError: If the module does not take such images, or gives no features (B, D).
    """

    def __init__(self, module: nn.Module, *, name: str = "module", channels: int, size: int) -> None:
        super().__init__()
        self.name, self.net = name, module
        training = module.training
        try:
            with torch.no_grad():
                features = module.eval()(torch.zeros(2, channels, size, size))
        except Exception as error:  # each module fails in its own way
            raise UserError(
                f"{type(module).__name__} does not take {channels}x{size}x{size} images: {error}",
                expected="a module that does, or data of other images",
            ) from error
        finally:
            module.train(training)
        if not (isinstance(features, Tensor) and features.ndim == 2):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{type(module).__name__} gives {shape}", expected="features (B, D) of a batch")
        self.width = features.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D) of images x (B, channels, size, size)."""
        features: Tensor = self.net(x)
        return features
