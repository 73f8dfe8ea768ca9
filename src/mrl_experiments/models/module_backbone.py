"""Any module that gives features as a backbone."""

from torch import Tensor, nn

from mrl_experiments.models.image_features import measure_width


class ModuleBackbone(nn.Module):
    """A module of the user's own, whose features have the width that they turn out to have.

    Args:
        module: Maps images (B, channels, size, size) to features (B, D).
        name: How tables call it.
        channels: Of the images.
        size: Their side in pixels.

    Attributes:
        shape: Of one image, (channels, size, size).
        width: D.

    Raises:
        UserError: If the module does not take such images, or gives no features (B, D).
    """

    def __init__(self, module: nn.Module, *, name: str = "module", channels: int, size: int) -> None:
        super().__init__()
        self.name, self.net = name, module
        self.shape = (channels, size, size)
        self.width = measure_width(module, self.shape, type(module).__name__)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D) of images x (B, channels, size, size)."""
        return self.net(x)
