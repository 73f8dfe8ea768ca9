"""FF: the fixed-feature baseline, one classifier on the first `dim` features of the backbone."""

from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.linear_heads import LinearHeads, SeparateHeads, TiedHead
from mrl_experiments.losses.method import shared_embedding, width_of
from mrl_experiments.losses.nested_classifier import NestedClassifier
from mrl_experiments.nesting import Dims, NestingSpec, Weights, resolved_dims


class FF(NestedClassifier):
    """MRL with a single size: the head reads the first `dim` features, the others get no loss.

    The head of a text model is the first `dim` columns of its input embeddings, as it is in MRL-E.

    dim: the size, by default the backbone's width D.
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
        width = width_of(backbone)
        if dims is not None:
            sizes = resolved_dims(width, dims)
            raise UserError(
                f"loss.dims={list(sizes)} has no meaning for loss={name}, which trains one size",
                expected="loss.dims=null",
                remedy=f"loss={name} loss.dim={max(sizes, default=8)}, or loss=mrl for many sizes in one run",
            )
        if dim is not None and not (isinstance(dim, int) and 1 <= dim <= width):
            raise UserError(
                f"loss.dim={dim}", expected=f"a whole number from 1 to the backbone's width {width}, or null"
            )
        spec = NestingSpec.resolve(width, (width if dim is None else dim,), weights)
        shared = shared_embedding(backbone)
        heads: LinearHeads = (
            SeparateHeads(spec.dims, num_classes)
            if shared is None
            else TiedHead(spec.dims, num_classes, shared)
        )
        super().__init__(backbone, spec, heads, label_smoothing)
