"""MRL: every nested size has a classifier of its own (Kusupati et al., 2022, Eq. 1)."""

from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.linear_heads import LinearHeads, SeparateHeads
from mrl_experiments.losses.method import width_of
from mrl_experiments.losses.nested_classifier import NestedClassifier
from mrl_experiments.nesting import Dims, NestingSpec, Weights


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
        dims: Dims | None,
        weights: Weights | None,
        label_smoothing: float,
    ) -> None:
        if dim is not None:
            raise UserError(
                f"loss.dim={dim} has no meaning for loss={name}, which trains all sizes at once",
                expected="loss.dim=null",
                remedy=f"loss={name} loss.dims=[{dim}] for one nested size, or loss=ff loss.dim={dim}",
            )
        spec = NestingSpec.resolve(width_of(backbone), dims, weights)
        super().__init__(backbone, spec, self.make_heads(backbone, spec, num_classes), label_smoothing)

    def make_heads(self, backbone: nn.Module, spec: NestingSpec, num_classes: int) -> LinearHeads:
        """Return the classifiers."""
        return SeparateHeads(spec.dims, num_classes)
