"""The texts that belong to each label, as tokens of one length."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.data.loaders.augment import NUMBERS
from mrl_experiments.data.loaders.counter_rng import stream, uniform
from mrl_experiments.data.source import Source
from mrl_experiments.data.text.tokenizer import Tokenizer

Ids = NDArray[np.int64]


class CaptionedSource(Source, Protocol):
    """Images whose labels have texts: each label's images and texts show the same thing.

    Attributes:
        captions: For each label, at least one text.
    """

    captions: Sequence[Sequence[str]]

    def labels(self, split: str) -> Sequence[int]:
        """Return the labels that occur in a split, ascending."""


def identity_of(captions: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """Return what determines a vocabulary learned from captions."""
    digest = hashlib.sha256()
    for texts in captions:
        digest.update("\0".join((*texts, "\0")).encode())
    return {"captions": digest.hexdigest()}


class Captions:
    """Tokens (K, T) of all captions, label by label, padded behind the text; longer ones are cut.

    Attributes:
        cut: How many were longer than T tokens.
    """

    def __init__(self, captions: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int) -> None:
        texts = tokenizer.encode([text for one in captions for text in one])
        self.tokens = np.full((len(texts), length), tokenizer.pad, dtype=np.int64)
        for row, text in zip(self.tokens, texts, strict=True):
            row[: len(text)] = text[:length]
        self.cut = sum(len(text) > length for text in texts)
        self._counts = np.array([len(one) for one in captions], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def drawn(self, labels: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        """Return one caption (B, T) of each label (B,); which one depends on (seed, epoch, sample) alone."""
        own, samples = labels.numpy(), index.numpy().astype(np.uint64)
        with np.errstate(over="ignore"):
            share = uniform(stream(seed, epoch), samples, np.uint64(NUMBERS))
        return torch.from_numpy(self.tokens[self._starts[own] + (share * self._counts[own]).astype(np.int64)])

    def first(self, labels: Tensor) -> Tensor:
        """Return the first caption (B, T) of each label (B,)."""
        return torch.from_numpy(self.tokens[self._starts[labels.numpy()]])

    def of(self, labels: Sequence[int]) -> tuple[Ids, Ids]:
        """Return all captions of some labels: rows of `tokens` (N,), and the label of each (N,)."""
        rows = [np.arange(self._counts[label]) + self._starts[label] for label in labels]
        return np.concatenate(rows), np.repeat(np.asarray(labels), self._counts[list(labels)])
