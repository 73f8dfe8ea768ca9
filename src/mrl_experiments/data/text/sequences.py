"""Sequences cut from packed tokens, and what is to be predicted in them: the next token, or masked ones.

A sequence is T tokens in a row, whatever documents they belong to; B sequences make a batch. Labels that are
`IGNORED` count nowhere.
"""

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.loaders.counter_rng import stream, uniform
from mrl_experiments.data.text.tokenizer import Tokenizer
from mrl_experiments.losses.method import IGNORED

Tokens: TypeAlias = NDArray[np.unsignedinteger[Any]]
Ids: TypeAlias = NDArray[np.int64]


class Sequences(Protocol):
    """All sequences of a split."""

    def __len__(self) -> int:
        """Return the number of sequences."""

    def batch(self, index: Ids, epoch: int) -> tuple[Ids, Ids]:
        """Return tokens (B, T) and labels (B, T) of the sequences `index` (B,)."""


class NextTokens:
    """Every token is to be predicted from those before it: the labels are the tokens, one further on."""

    def __init__(self, tokens: Tokens, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def batch(self, index: Ids, epoch: int) -> tuple[Ids, Ids]:
        """Return tokens (B, T) and labels (B, T)."""
        window = _windows(self.tokens, index, self.length, self.length + 1)
        return window[:, :-1], window[:, 1:]


class MaskedTokens:
    """A share of the tokens, another one each epoch, is to be predicted from both sides (BERT).

    Of these tokens 80 % are replaced by the mask token, 10 % by a random one, and 10 % stay. Which ones
    depends on (seed, epoch, sequence, position) alone. Special tokens are never masked.
    Source: Devlin et al., "BERT", 2019, Section 3.1.
    """

    MASKED, REPLACED = 0.8, 0.1

    def __init__(self, tokens: Tokens, length: int, share: float, tokenizer: Tokenizer, seed: int) -> None:
        self.tokens, self.length, self.share, self.seed = tokens, length, share, seed
        self.mask, self.special, self.vocabulary = tokenizer.mask, tokenizer.special, len(tokenizer)

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def batch(self, index: Ids, epoch: int) -> tuple[Ids, Ids]:
        """Return tokens (B, T) with some masked, and labels (B, T): IGNORED where a token can be seen."""
        original = _windows(self.tokens, index, self.length, self.length)
        number = np.arange(3 * self.length, dtype=np.uint64)
        with np.errstate(over="ignore"):
            draws = uniform(stream(self.seed, epoch), index[:, None].astype(np.uint64), number)
        whether, how, which = np.split(draws, 3, axis=1)
        chosen = (whether < self.share) & (original >= self.special)
        random = self.special + (which * (self.vocabulary - self.special)).astype(np.int64)
        masked = np.where(how < self.MASKED, self.mask, original)
        masked = np.where((how >= self.MASKED) & (how < self.MASKED + self.REPLACED), random, masked)
        return np.where(chosen, masked, original), np.where(chosen, original, IGNORED)


def _windows(tokens: Tokens, index: Ids, stride: int, size: int) -> Ids:
    return tokens[index[:, None] * stride + np.arange(size)].astype(np.int64)
