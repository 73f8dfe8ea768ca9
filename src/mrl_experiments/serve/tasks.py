"""What becomes of features: vectors of few dims, classes by a cascade, neighbours in an index."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.heads import Heads

Array = NDArray[np.float32]


class Answer(NamedTuple):
    """A class, the probability that its classifier gives it, and the dims of that classifier."""

    label: int
    confidence: float
    dim: int


class Found(NamedTuple):
    """Neighbours of a query: ids (k,) int64, -1 where there are fewer, and similarities (k,)."""

    ids: NDArray[np.int64]
    similarities: Array


@dataclass(frozen=True)
class Embed:
    """Cut features to `dim` and give them length one."""

    dim: int

    def __call__(self, features: Array) -> list[Array]:
        """Return N vectors (dim,) of features (N, D)."""
        return list(unit_prefixes(features, self.dim))


@dataclass(frozen=True)
class Classify:
    """Classify by a cascade; one of a single dim is the classifier of that dim."""

    cascade: Cascade
    heads: Heads = field(compare=False)

    def __call__(self, features: Array) -> list[Answer]:
        """Return an answer for each of features (N, D)."""
        classifier = AdaptiveClassifier(self.heads)
        classifier.cascade = self.cascade
        found = classifier.predict(features)
        columns = found.labels.tolist(), found.confidence.tolist(), found.dims.tolist()
        return [Answer(*one) for one in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Search:
    """Search an index by stages, or where they are None by the recall that it was built for."""

    stages: tuple[tuple[int, int], ...] | None
    index: AdaptiveIndex = field(compare=False)

    def __call__(self, features: Array) -> Sequence[Found]:
        """Return the neighbours of each of features (N, D)."""
        if (
            self.index.spec.similarity != "cosine"
        ):  # of such vectors the lengths count: those that encode gives
            features = unit_prefixes(features, features.shape[1])
        found = (
            self.index.search(features)
            if self.stages is None
            else self.index.search_stages(features, self.stages)
        )
        return [Found(*one) for one in zip(found.ids, found.similarities, strict=True)]
