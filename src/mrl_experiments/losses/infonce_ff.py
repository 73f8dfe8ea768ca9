"""InfoNCE at a single size: the separate models that a nested one is compared with."""

from collections.abc import Sequence

from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.infonce import InfoNCE
from mrl_experiments.losses.method import width_of


class InfoNCEFF(InfoNCE):
    """Contrastive learning with the first `dim` features, by default the backbone's width D."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        dim: int | None,
        dims: Sequence[int] | None,
        weights: Sequence[float] | None,
        label_smoothing: float,
        temperature: float,
        cache_chunk: int | None,
    ) -> None:
        if dims is not None:
            raise UserError(
                f"loss.dims={list(dims)} has no meaning for loss=infonce_ff, which trains one size",
                expected="loss.dims=null",
                remedy="loss.dim=<size>, or loss=infonce for many sizes in one run",
            )
        size = (width_of(backbone) if dim is None else dim,)
        super().__init__(
            backbone, num_classes, name, None, size, weights, label_smoothing, temperature, cache_chunk
        )
