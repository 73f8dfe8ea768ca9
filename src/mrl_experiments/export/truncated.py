"""A trained method as a plain module of one dim, without the parts that only other dims use."""

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.nesting import prefix


class TruncatedClassifier(nn.Module):
    """A backbone and one `Linear(dim, C)` on its first features: the cost of an FF model of dim `dim`."""

    def __init__(self, backbone: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.linear = backbone, linear

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs x (B, ...)."""
        logits: Tensor = self.linear(prefix(self.backbone(x), self.linear.in_features))
        return logits


def truncate(method: Method, dim: int) -> TruncatedClassifier:
    """Return the classifier of the first `dim` features; it shares the backbone with `method`.

    Raises:
        UserError: If the method has no classifier at this dim.
    """
    heads = method.heads()
    if heads is None:
        raise UserError(
            f"{type(method).__name__} has no classifiers to truncate",
            expected="a method trained to classify: loss=ff, mrl or mrl_e",
        )
    weight, bias = heads.at(dim)
    linear = nn.Linear(dim, len(bias))
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    device = next((parameter.device for parameter in method.parameters()), torch.device("cpu"))
    return TruncatedClassifier(method.backbone, linear.to(device)).train(method.training)
