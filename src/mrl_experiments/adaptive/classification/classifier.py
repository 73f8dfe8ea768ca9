"""A classifier that uses as few dimensions as each sample needs."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade, Policy
from mrl_experiments.adaptive.classification.early_exit import IncrementalLogits, Inputs
from mrl_experiments.adaptive.classification.exits import (
    BLOCK,
    check_inputs,
    check_labels,
    check_nested,
    read_exits,
    sample_count,
    top1,
)
from mrl_experiments.adaptive.classification.outcome import saves_nothing
from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    fingerprint,
    read_object,
    reading,
    remove_quietly,
    require_unchanged,
    write_json,
)
from mrl_experiments.heads import Heads
from mrl_experiments.results import Setting, read_setting

CASCADE, HEADS = "cascade.json", "heads.safetensors"
VERSION = 1


@dataclass(frozen=True)
class Answers:
    """One answer for each of N samples.

    Attributes:
        labels: (N,) int64 predicted classes.
        dims: (N,) int64, the dim used.
        confidence: (N,) float32, the softmax probability of the answer at that dim.
    """

    labels: NDArray[np.int64]
    dims: NDArray[np.int64]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """What is known of the samples `rows` (R,) that came as far as `dim`.

    Attributes:
        logits: (R, C), only until the next stage.
        predicted: (R,).
        confidence: (R,).
        confident: (R,), those that are answered here.
    """

    dim: int
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    confident: NDArray[np.bool_]


def run_cascade(
    cascade: Cascade, inputs: Inputs, heads: Heads | None, rows: NDArray[np.int64]
) -> Iterator[Stage]:
    """Yield the dims of a cascade with the samples that reach each, until all of `rows` are answered."""
    table = IncrementalLogits(inputs, heads, rows)
    for dim, threshold in zip(cascade.dims, (*cascade.thresholds, -1.0), strict=True):
        logits = table.at(dim)
        predicted, confidence = top1(logits, table.rows, dim)
        confident = confidence > threshold
        yield Stage(dim, table.rows, logits, predicted, confidence, confident)
        if confident.all():
            return
        table.keep(~confident)


class AdaptiveClassifier:
    """A cascade over nested dims, fitted by a policy, that classifies features or logits.

    Args:
        heads: With them the inputs are features (N, D); without, they are logits {dim: (N, C)}.

    Example:
        >>> from mrl_experiments.adaptive.classification.policies.uniform import Uniform
        >>> logits = {8: np.float32([[4, 0], [0.1, 0]]), 16: np.float32([[4, 0], [0, 3]])}
        >>> classifier = AdaptiveClassifier().fit(Uniform(0.9), logits, np.array([0, 1]))
        >>> answers = classifier.predict(logits)
        >>> answers.labels.tolist(), answers.dims.tolist()
        ([0, 1], [8, 16])
    """

    def __init__(self, heads: Heads | None = None) -> None:
        self.heads = heads
        self.cascade: Cascade | None = None
        self.policy = Setting()
        self.fitted_on = ""

    def fit(
        self,
        policy: Policy,
        inputs: Inputs,
        labels: NDArray[np.int64],
        *,
        dims: Sequence[int] | None = None,
        split: str = "",
    ) -> "AdaptiveClassifier":
        """Choose the thresholds on labelled samples.

        Args:
            policy: What chooses them.
            inputs: Features (N, D) or logits {dim: (N, C)}.
            labels: (N,) whole numbers below C.
            dims: Those to try, by default all that have a classifier of their own (a tied classifier needs
                them stated).
            split: Names the samples, so that `predict` can refuse them.

        Warns:
            UserWarning: Where the last dim answers every sample, so that nothing is saved.

        Raises:
            UserError: If labels are missing or none of the classes, dims do not nest, or logits are NaN.
        """
        exits = read_exits(inputs, self.heads, dims)
        check_nested(exits.dims)
        classes = self.heads.classes if self.heads else np.shape(dict(inputs)[exits.dims[0]])[1]
        if labels is not None:  # a policy may do without
            labels = check_labels(labels, len(exits))
            if labels.max() >= classes:
                raise UserError(f"a label {labels.max()}", expected=f"0 to {classes - 1}, the classes")
        self.cascade = policy.fit(exits, labels).pruned()
        if self.cascade.dims == exits.dims[-1:]:
            warnings.warn(saves_nothing(policy.setting, exits, labels, len(exits)), stacklevel=2)
        self.policy, self.fitted_on = policy.setting, split
        return self

    def predict(self, inputs: Inputs, *, split: str = "") -> Answers:
        """Classify each sample at the first dim that is confident enough; larger dims are not computed.

        Raises:
            UserError: If there are no thresholds yet, if they were fitted on this very split, or if the
                inputs lack a dim or hold NaN.
        """
        cascade = self._fitted(split)
        inputs = check_inputs(inputs, cascade.dims)
        count = sample_count(inputs)
        answers = Answers(np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32))
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            for stage in run_cascade(cascade, inputs, self.heads, rows):
                done = stage.rows[stage.confident]
                answers.labels[done], answers.dims[done] = stage.predicted[stage.confident], stage.dim
                answers.confidence[done] = stage.confidence[stage.confident]
        return answers

    def save(self, folder: Path) -> None:
        """Write classifiers (safetensors), then thresholds and the checksum of the classifiers (JSON).

        Raises:
            UserError: For what the operating system refuses, such as a full disk.
        """
        cascade = self._fitted()
        remove_quietly(folder / CASCADE)  # so that after a kill in between nothing looks complete
        if self.heads is not None:
            self.heads.save(folder / HEADS)
        write_json(
            folder / CASCADE,
            {
                "version": VERSION,
                "policy": self.policy,
                "fitted_on": self.fitted_on,
                "dims": list(cascade.dims),
                "thresholds": list(cascade.thresholds),
                "heads": fingerprint(folder / HEADS) if self.heads is not None else None,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "AdaptiveClassifier":
        """Read what `save` wrote.

        Raises:
            UserError: If it is incomplete, changed or of another version.
        """
        path, remedy = folder / CASCADE, "save it again"
        if not path.exists():
            raise UserError(f"{folder} holds no complete adaptive classifier", remedy=remedy)
        stored = read_object(path, remedy, version=VERSION)
        noted = stored.get("heads")
        if isinstance(noted, dict):  # before there were checksums: whether there are classifiers
            require_unchanged(folder / HEADS, noted, remedy)
        classifier = cls(Heads.load(folder / HEADS, remedy) if noted else None)
        with reading(path, "", remedy):
            classifier.cascade = Cascade(tuple(stored["dims"]), tuple(stored["thresholds"]))
            policy = stored["policy"]
            classifier.policy = Setting(policy if isinstance(policy, Mapping) else read_setting(policy))
            classifier.fitted_on = stored["fitted_on"]
        return classifier

    def _fitted(self, split: str = "") -> Cascade:
        if self.cascade is None:
            raise UserError("this adaptive classifier has no thresholds yet", remedy="call fit first")
        if split and split == self.fitted_on:
            raise UserError(
                f"the thresholds were fitted on the split {split!r} itself",
                expected="samples that the thresholds have not seen, else the accuracy is too good",
                remedy="fit on a part of the split and predict the rest, or fit on another split",
            )
        return self.cascade
