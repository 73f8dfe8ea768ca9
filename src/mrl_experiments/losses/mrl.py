"""MRL: every nested size has a classifier of its own (Kusupati et al., 2022, Eq. 1)."""

from collections.abc import Sequence

from torch import nn

from mrl_experiments.losses.linear_heads import SeparateHeads
from mrl_experiments.losses.nested_classifier import NestedClassifier, spec_of_all


class MRL(NestedClassifier):
    """Matryoshka representation learning with a `Linear(m, C)` for each size m in `dims`.

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
        super().__init__(backbone, spec, SeparateHeads(spec.dims, num_classes), label_smoothing)
