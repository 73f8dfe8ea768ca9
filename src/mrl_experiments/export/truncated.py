"""A trained method as a plain module of one dim, without the parts that only other dims use."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.export.last_layer import first_features
from mrl_experiments.losses.method import Method, width_of
from mrl_experiments.nesting import prefix


class TruncatedClassifier(nn.Module):
    """A backbone and one `Linear(dim, C)` on its first features.

    Attributes:
        backbone: Images or tokens to features of at least `dim`.
        linear: The classifier.
        cut: The names of the backbone's layers that compute the first features alone, see `first_features`.
    """

    def __init__(self, backbone: nn.Module, linear: nn.Linear, cut: Sequence[str] = ()) -> None:
        super().__init__()
        self.backbone, self.linear, self.cut = backbone, linear, tuple(cut)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs x (B, ...)."""
        logits: Tensor = self.linear(prefix(self.backbone(x), self.linear.in_features))
        return logits


def truncate(method: Method, dim: int) -> TruncatedClassifier:
    """Return the classifier of the first `dim` features.

    It shares the backbone with `method`. In evaluation mode, the channels of the last layers that only other
    features need are left out, where the network allows it (ResNets, EfficientNets and their like): then
    these layers are its own, and it costs less than an FF model of this dim. `cost.network_macs` tells how
    much.

    Raises:
        UserError: If the method has no classifier at this dim.
    """
    heads = method.heads()
    if heads is None:
        raise UserError(
            f"{type(method).__name__} has no classifiers to truncate",
            expected="a method trained to classify: loss=ff, mrl or mrl_e",
        )
    linear = linear_of(*heads.at(dim))
    device = next((parameter.device for parameter in method.parameters()), torch.device("cpu"))
    backbone, cut = narrowed(method, dim)
    return TruncatedClassifier(backbone, linear.to(device), cut).train(method.training)


def linear_of(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> nn.Linear:
    """Return a layer of weight (C, dim) and bias (C,)."""
    linear = nn.Linear(weight.shape[1], len(bias))
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    return linear


def narrowed(method: Method, dim: int) -> tuple[nn.Module, list[str]]:
    """Return a backbone that gives at least the first `dim` features, and the names of what it does without.

    It is that of `method` itself where nothing can be left out, or its inputs are no images, or it trains.
    """
    shape = getattr(method.backbone, "shape", None)  # of one image, which backbones of images say
    if shape is None or method.training or dim == width_of(method.backbone):
        return method.backbone, []
    device = next((parameter.device for parameter in method.parameters()), torch.device("cpu"))
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    return first_features(method.backbone, dim, example)
