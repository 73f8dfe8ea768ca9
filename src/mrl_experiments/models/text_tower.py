"""A transformers encoder with random weights from its configuration: tokens (B, T) to features (B, D)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.models.text_backbone import check_type


class TextTower(nn.Module):
    """The mean of an encoder's outputs over a text's tokens.

    Parameters
    ----------
    type: how transformers calls the architecture (`bert`, `roberta`, `electra`, ...).
    vocabulary, length, pad: what the data delivers: tokens below V, T a text, and the one behind its end.
    options: further settings of the architecture's configuration (`hidden_size`, `num_hidden_layers`, ...).

    `width` is D. Raises UserError for an unknown architecture, settings it does not take, or texts longer
    than its positions.
    """

    def __init__(
        self, *, type: str, vocabulary: int, length: int, pad: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.pad = pad
        positions = {"max_position_embeddings": length}
        settings = {"vocab_size": vocabulary, "pad_token_id": pad, **positions, **options}
        if settings["max_position_embeddings"] < length:
            raise UserError(
                f"texts of data.length={length} tokens, but the model has "
                f"{settings['max_position_embeddings']} positions",
                expected="at least as many positions as tokens",
                remedy=f"data.length={settings['max_position_embeddings']}, or more positions",
            )
        self.net = _create(type, settings)
        self.width = int(self.net.config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, D) of tokens (B, T); what lies behind a text's end does not matter."""
        seen = tokens != self.pad
        outputs: Tensor = self.net(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        weights = seen.to(outputs.dtype)[..., None]
        return (outputs * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _create(type: str, settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel  # takes seconds

    check_type(type, "model.text.type")
    try:
        config = AutoConfig.for_model(type, **settings)
        net = AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"transformers cannot build the text tower {type} with {settings}: {error}".partition("\n")[0],
            expected="an encoder it knows, such as bert, and settings of its configuration",
        ) from error
    if getattr(net, "pooler", None) is not None:
        net.pooler = None  # the mean over tokens stands in for it
    try:
        net.eval()(input_ids=torch.full((1, 2), settings["pad_token_id"]))
    except Exception as error:
        raise UserError(f"the text tower {type} does not read tokens alone: {error}") from error
    return net.train()
