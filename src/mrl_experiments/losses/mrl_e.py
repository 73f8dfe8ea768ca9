"""MRL-E: all nested sizes share one classifier (Kusupati et al., 2022, Section 3, weight tying)."""

from collections.abc import Sequence

from torch import nn

from mrl_experiments.losses.linear_heads import TiedHead
from mrl_experiments.losses.nested_classifier import NestedClassifier, spec_of_all


class MRLE(NestedClassifier):
    """Efficient MRL: size m is classified by the first m columns of one `Linear(D, C)` and its bias.

    dims: the nested sizes, by default {8, 16, ..., D} (a ViT: {12, ..., D}). weights: c_m, by default 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        dim: int | None,
        dims: Sequence[int] | None,
        weights: Sequence[float] | None,
        label_smoothing: float,
    ) -> None:
        spec = spec_of_all(backbone, name, dim, dims, weights)
        super().__init__(backbone, spec, TiedHead(spec.dims, num_classes), label_smoothing)
