"""Two towers, a timm model for images and a transformers model for text, projected into one space."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.models.text_backbone import TextTower
from mrl_experiments.models.timm_backbone import TimmBackbone


class DualEncoder(nn.Module):
    """Images (B, C, H, W) or tokens (B, T) to features (B, D) of one space (Jia et al., 2021; ALIGN).

    The data says `channels`, `size`, `vocabulary`, `length` and `pad`; see `TimmBackbone` and `TextTower`.

    Args:
        name: How tables call it.
        arch: Of the image tower, as `pretrained` and its like, `blurpool` and `options`; see `TimmBackbone`.
        width: D, to which each tower's features are projected linearly.
        text: `type` and `options` of the text tower; see `TextTower`.
    """

    def __init__(
        self,
        *,
        name: str,
        arch: str,
        width: int,
        text: Mapping[str, Any],
        channels: int,
        size: int,
        vocabulary: int,
        length: int,
        pad: int,
        pretrained: str | bool | None = None,
        pretrained_by_order: bool | None = False,
        blurpool: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.image = TimmBackbone(
            arch=arch, name=name, channels=channels, size=size,
            pretrained=pretrained, pretrained_by_order=pretrained_by_order,
            blurpool=blurpool, options=options,
        )  # fmt: skip
        self.text = TextTower(**text, vocabulary=vocabulary, length=length, pad=pad)
        self.project_image = nn.Linear(self.image.width, width, bias=False)
        self.project_text = nn.Linear(self.text.width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D) of images or, where x holds integers, of tokens."""
        if not isinstance(x, Tensor):
            raise UserError(
                "model=dual_encoder embeds images or texts, not both as one input",
                expected="a loss for pairs of them: loss=infonce",
            )
        is_text = not torch.is_floating_point(x)
        return self.project_text(self.text(x)) if is_text else self.project_image(self.image(x))
