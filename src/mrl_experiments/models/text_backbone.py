"""Models of the transformers library, built from a configuration: features of tokens, or of whole texts."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError

# Special tokens are the data's business. An embedding that counts as padding would get no gradient.
NO_SPECIAL = dict.fromkeys(f"{role}_token_id" for role in ("bos", "eos", "pad", "cls", "sep", "mask"))


class TextBackbone(nn.Module):
    """Features (B, T, D) of tokens (B, T), randomly initialized.

    `shared_embedding` (V, D) is the matrix of the input embeddings, which classifiers of tokens share (MRL-E,
    as the paper has it for BERT).

    Args:
        arch: A model type of transformers, such as gpt2, llama, bert or modernbert.
        name: How tables call it.
        width: D.
        layers: Number of transformer blocks.
        attention_heads: Of each block.
        positions: The longest sequence; None: the data's.
        options: Further arguments of the configuration (dropout, intermediate_size, ...).
        vocabulary: V, the number of tokens of the data.
        length: T, tokens per sequence of the data.
        causal: 1 if features may not depend on later tokens.
        pretrained: Must be None; a vocabulary learned from the data fits no weights trained elsewhere.

    Raises:
        UserError: For an architecture or options that transformers cannot build, for one that needs more than
            tokens (RoBERTa counts positions from a padding token), for sequences longer than its positions,
            and if it sees later tokens although the data wants the next token, or the reverse.
    """

    def __init__(
        self,
        *,
        arch: str,
        name: str,
        width: int,
        layers: int,
        attention_heads: int,
        vocabulary: int,
        length: int,
        causal: int,
        positions: int | None = None,
        pretrained: None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained is not None:
            raise UserError(f"model.pretrained={pretrained}", expected="null: text models begin at random")
        self.name, self.width, self.positions = name, width, positions or length
        self._check_length(length)
        settings = {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": attention_heads,
            "max_position_embeddings": self.positions,
            "use_cache": False,
        }
        self.net = _create("model.arch", arch, {**settings, **NO_SPECIAL, **dict(options or {})})
        _check_direction(self, bool(causal), vocabulary, length)

    @property
    def shared_embedding(self) -> nn.Parameter | None:
        """The input embeddings (V, D), or None where their width is not that of the features."""
        weight: nn.Parameter = self.net.get_input_embeddings().weight
        return weight if weight.shape[1] == self.width else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, T, D) of tokens x (B, T)."""
        self._check_length(x.shape[1])
        return self.net(input_ids=x).last_hidden_state

    def new_cache(self) -> Any | None:
        """Return an empty key-value cache for `last`, or None where the architecture takes none."""
        from transformers import DynamicCache

        takes_one = "cache" in inspect.signature(self.net.forward).parameters
        return DynamicCache(config=self.net.config) if takes_one else None

    def last(self, x: Tensor, cache: Any | None = None) -> Tensor:
        """Return the features of the last of some tokens.

        Args:
            x: (B, T) tokens: all of them or, with a cache, those that follow the ones it has seen.
            cache: Of `new_cache`; it is changed in place.

        Returns:
            (B, D).
        """
        seen = {} if cache is None else {"cache": cache, "use_cache": True}
        features: Tensor = self.net(input_ids=x, **seen).last_hidden_state
        return features[:, -1]

    def _check_length(self, length: int) -> None:
        if length > self.positions:
            raise UserError(
                f"sequences of {length} tokens are longer than the {self.positions} positions of {self.name}",
                remedy=f"data.length={self.positions}, or train with model.positions={length}",
            )


class TextTower(nn.Module):
    """The mean of an encoder's outputs over a text's tokens.

    Args:
        type: The model type of transformers (`bert`, `roberta`, `electra`, ...).
        vocabulary: V, the number of tokens of the data.
        length: T, tokens per text of the data.
        pad: The token that fills a text up to T.
        options: Further arguments of the configuration (`hidden_size`, `num_hidden_layers`, ...).

    Attributes:
        width: D.

    Raises:
        UserError: For an unknown architecture, options it does not take, or texts longer than its positions.
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
        self.net = _create("model.text.type", type, settings)
        self._check_reads_tokens(type)
        self.width = int(self.net.config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, D) of tokens (B, T); what lies behind a text's end does not matter."""
        seen = tokens != self.pad
        outputs: Tensor = self.net(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
        weights = seen.to(outputs.dtype)[..., None]
        return (outputs * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def _check_reads_tokens(self, type: str) -> None:
        try:
            self.net.eval()(input_ids=torch.full((1, 2), self.pad))
        except Exception as error:  # each architecture has its own needs
            raise UserError(f"the text tower {type} does not read tokens alone: {error}") from error
        self.net.train()


def _create(option: str, arch: str, settings: dict[str, Any]) -> Any:
    """Return a model of transformers with random weights and without a pooler.

    Args:
        option: What names the architecture, for messages, such as model.arch.
        arch: A model type of transformers.
        settings: Of its configuration.

    Raises:
        UserError: With near names where transformers knows no such type; or where it cannot build one.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel  # takes seconds

    if arch not in CONFIG_MAPPING:
        near = difflib.get_close_matches(arch.rpartition("/")[2], list(CONFIG_MAPPING), n=3, cutoff=0.5)
        raise UserError(
            f"{option}={arch} is not a model type of transformers",
            expected=f"a type such as {', '.join(near or ['gpt2', 'llama', 'bert'])}",
        )
    try:
        net = AutoModel.from_config(AutoConfig.for_model(arch, **settings))
    except Exception as error:  # each architecture checks its options in its own way
        raise UserError(
            f"transformers cannot build {option}={arch} with {settings}: {error}",
            expected="a width, layers, attention heads and options that fit each other",
        ) from error
    if getattr(net, "pooler", None) is not None:
        net.pooler = None  # reads one token only, and parameters without gradient stop a distributed training
    return net


@torch.no_grad()
def _check_direction(backbone: TextBackbone, causal: bool, vocabulary: int, length: int) -> None:
    """Check whether features depend on later tokens; no attribute of the architectures says so."""
    tokens = torch.zeros(1, min(length, 8), dtype=torch.long)
    other = tokens.clone()
    other[0, -1] = vocabulary - 1
    training = backbone.training
    backbone.eval()
    try:
        before, after = (backbone(x)[0, 0] for x in (tokens, other))
    except Exception as error:  # each architecture has its own needs
        raise UserError(
            f"{backbone.name} cannot read tokens without more: {type(error).__name__}: {error}",
            expected="a model.arch that needs no padding token, such as gpt2, llama, bert or modernbert",
        ) from error
    backbone.train(training)
    looks_ahead = not torch.equal(before, after)
    if looks_ahead and causal:
        raise UserError(
            f"model={backbone.name} sees the tokens that it is to predict",
            expected="a causal architecture, such as model=gpt_small",
            remedy="data.masked=0.15 hides tokens instead",
        )
    if not looks_ahead and not causal:
        raise UserError(
            f"model={backbone.name} sees only what stands before a hidden token",
            expected="an architecture that looks both ways, such as model=bert_small",
            remedy="data.masked=null predicts each next token instead",
        )
