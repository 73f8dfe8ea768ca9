"""What losses that compare samples with each other share: a temperature for each dim, and no classifier."""

import math

import torch
from torch import Tensor, nn

from mrl_experiments.losses.method import Method
from mrl_experiments.nesting import NestingSpec

COLDEST, WARMEST = 0.01, 1.0  # temperatures stay between: CLIP's bounds (Radford et al., 2021, Section 2.5)


class Contrastive(Method):
    """A method whose logits are cosines over a temperature, which each dim learns.

    Args:
        backbone: Its attribute `width` is D.
        spec: The nested dims and their weights.
        temperature: Initial value for all dims.
    """

    def __init__(self, backbone: nn.Module, spec: NestingSpec, temperature: float) -> None:
        super().__init__(backbone, spec)
        self.log_scale = nn.Parameter(torch.full((len(spec),), -math.log(temperature)))

    def scales(self) -> Tensor:
        """Return (L,): one over the temperature of each dim, within bounds."""
        with torch.no_grad():  # a bound inside the graph would stop a temperature that touches it
            self.log_scale.clamp_(-math.log(WARMEST), -math.log(COLDEST))
        return self.log_scale.exp()

    def heads(self) -> None:
        """Return no classifiers."""
        return None


def sums(losses: Tensor, hits: Tensor) -> Tensor:
    """Return (L, 4), as `validate` does, of losses (L, N) and of hits among the first 1 and 5 (L, 2)."""
    counts = torch.full((len(losses), 1), float(losses.shape[1]), device=losses.device)
    return torch.cat([losses.sum(dim=1, keepdim=True), hits, counts], dim=1)
