"""Predictions and confidences at each nested dim: all that a cascade reads of the logits."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.early_exit import IncrementalLogits, Inputs
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.nested_accuracy import TIED, sole_highest

BLOCK = 512  # samples; a block of 2,048-class logits then stays near the processor (4 MB)


@dataclass(frozen=True)
class Exits:
    """Prediction and confidence at each of L nested dims.

    Attributes:
        dims: (L,) ascending.
        predicted: (L, N) int64 classes.
        confidence: (L, N) float32, the largest softmax probability.
        tied: (L, N), whether several classes share it, which counts against any label.
    """

    dims: tuple[int, ...]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    tied: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return self.predicted.shape[1]

    def take(self, rows: NDArray[np.int64]) -> "Exits":
        """Return the samples `rows`, in that order."""
        tied = None if self.tied is None else self.tied[:, rows]
        predicted, confidence = self.predicted[:, rows], self.confidence[:, rows]
        return replace(self, predicted=predicted, confidence=confidence, tied=tied)

    def correct(self, labels: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Return (L, N): whether each prediction is right.

        Raises:
            UserError: If labels are missing.
        """
        right = np.equal(self.predicted, check_labels(labels, len(self)))
        return right if self.tied is None else right & ~self.tied


def read_exits(inputs: Inputs, heads: Heads | None = None, dims: Sequence[int] | None = None) -> Exits:
    """Reduce logits {dim: (N, C)}, or features (N, D) with their classifiers, to `Exits`, block by block.

    `dims` defaults to every dim that has logits or a classifier.

    Raises:
        UserError: If the dims do not nest, if inputs do not fit them (see `check_inputs`) or if logits are
            NaN.
    """
    if dims is None:
        dims = sorted(inputs) if isinstance(inputs, Mapping) else heads.dims() if heads else ()
    exit_dims = tuple(dims)
    check_nested(exit_dims, least=1)
    inputs = check_inputs(inputs, exit_dims)
    count = sample_count(inputs)
    predicted = np.empty((len(exit_dims), count), np.int64)
    confidence = np.empty((len(exit_dims), count), np.float32)
    tied = np.empty((len(exit_dims), count), bool)
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        table = IncrementalLogits(inputs, heads, rows)
        for i, dim in enumerate(exit_dims):
            logits = table.at(dim)
            predicted[i, rows], confidence[i, rows] = top1(logits, rows, dim)
            tied[i, rows] = sole_highest(logits) == TIED
    return Exits(exit_dims, predicted, confidence, tied)


def check_inputs(inputs: Inputs, dims: Sequence[int]) -> Inputs:
    """Return logits of `dims`, or features (N, D), in a floating-point type that torch knows.

    Raises:
        UserError: Unless they are tables of numbers with all of `dims`, and logits of the same classes.
    """
    if not isinstance(inputs, Mapping):
        features = _floats(inputs, "features")
        if features.shape[1] < dims[-1]:
            raise UserError(f"features of width {features.shape[1]}", expected=f"at least {dims[-1]}")
        return features
    if missing := [dim for dim in dims if dim not in inputs]:
        raise UserError(f"no logits at {missing} dims", expected=f"logits at all of {list(dims)}")
    logits = {dim: _floats(inputs[dim], f"logits at {dim} dims") for dim in dims}
    classes = {dim: table.shape[1] for dim, table in logits.items()}
    if len({*classes.values()}) > 1 or 0 in classes.values():
        raise UserError(f"classes at each dim: {classes}", expected="logits of the same classes")
    return logits


def _floats(given: NDArray[np.floating[Any]], name: str) -> NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{name} of shape {array.shape} and type {array.dtype}", expected="(N, ...) real numbers"
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def sample_count(inputs: Inputs) -> int:
    """Return N.

    Raises:
        UserError: If the dims hold different numbers of samples.
    """
    if not isinstance(inputs, Mapping):
        return len(inputs)
    counts = {dim: len(logits) for dim, logits in inputs.items()}
    if len(set(counts.values())) != 1:
        raise UserError(f"samples at each dim: {counts}", expected="logits of the same samples at every dim")
    return next(iter(counts.values()))


def top1(
    logits: NDArray[np.float32], rows: NDArray[np.int64], dim: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the predicted classes (B,) and their softmax probabilities (B,) of logits (B, C).

    Raises:
        UserError: Naming the first of `rows` whose largest logit is not finite.
    """
    predicted = logits.argmax(axis=1)
    peak = np.take_along_axis(logits, predicted[:, None], axis=1)
    bad = np.flatnonzero(~np.isfinite(peak))
    if len(bad):
        raise UserError(
            f"{dim} dims: {len(bad)} samples have NaN or infinite logits, first sample {rows[bad[0]]}",
            expected="finite logits",
            remedy="check the training run and repeat embed.py",
        )
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    return predicted, np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]


def check_nested(dims: Sequence[int], least: int = 2) -> None:
    """Raise UserError unless there are at least `least` strictly increasing dims."""
    if len(dims) < least or any(low >= high for low, high in itertools.pairwise((0, *dims))):
        raise UserError(
            f"the dims {list(dims)} do not nest", expected=f"at least {least}, strictly increasing"
        )


def check_labels(labels: NDArray[np.int64] | None, count: int) -> NDArray[np.int64]:
    """Return labels (N,).

    Raises:
        UserError: Unless each of `count` samples, at least one, has a class.
    """
    labels = np.empty(0, np.int64) if labels is None else np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"labels of shape {labels.shape} and type {labels.dtype}", expected=f"({count},) whole numbers"
        )
    given = int((labels >= 0).sum())
    if not given == len(labels) == count > 0:
        raise UserError(
            f"{given} labels for {count} samples",
            expected="samples with one class each: thresholds are fitted to right and wrong answers",
        )
    return labels
