"""Mean cosines of pairs with equal and with different labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.results import Measurement
from mrl_experiments.search.class_means import class_sums
from mrl_experiments.search.database import labelled
from mrl_experiments.search.same_rows import refuse_same_rows

POSITIVE = "positive_text_to_image"
TEXT_IMAGE, IMAGES, TEXTS = "random_text_to_image", "random_image_to_image", "random_text_to_text"


def cosine_span(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int]
) -> Iterator[Measurement]:
    """Yield mean cosines of pairs at each dim, on unit-norm prefixes (Table 6).

    cosine: the mean over all such pairs, none is drawn. Pairs are positive where a text and an image have one
    label. The others, of a text and an image, two images, or two texts, have different labels.

    Args:
        queries: Images.
        database: Texts.

    Raises:
        UserError: Without texts, when an image has none, with a single label, or when both are the same.
    """
    refuse_same_rows(queries, database, "images, and texts of them")
    texts = labelled(queries, database)
    classes, class_index = np.unique(texts.labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError("all images and texts have one label", expected="at least two, to compare them")
    own = np.searchsorted(classes, queries.labels)
    for dim in tracked(dims, "comparing pairs", len(dims)):
        image = _Side.of(queries, own, len(classes), dim)
        text = _Side.of(texts, class_index, len(classes), dim)
        means = {
            POSITIVE: image.mean_cosine_within(text),
            TEXT_IMAGE: image.mean_cosine_between(text),
            IMAGES: image.mean_cosine_between(image),
            TEXTS: text.mean_cosine_between(text),
        }
        for pairs, value in means.items():
            yield Measurement(dim, "cosine", value, {"pairs": pairs})


@dataclass(frozen=True)
class _Side:
    """Sums of unit vectors (C, d) by label and their counts (C,): the mean of products is that of sums."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: Embeddings, class_index: NDArray[np.int64], classes: int, dim: int) -> "_Side":
        counts = np.bincount(class_index, minlength=classes).astype(np.float64)
        return cls(class_sums(unit_prefixes(embeddings.features, dim), class_index, classes), counts)

    def mean_cosine_within(self, other: "_Side") -> float:
        """Return the mean over pairs of one label."""
        return float((self.sums * other.sums).sum() / (self.counts @ other.counts))

    def mean_cosine_between(self, other: "_Side") -> float:
        """Return the mean over pairs of different labels."""
        everywhere = self.sums.sum(axis=0) @ other.sums.sum(axis=0) - (self.sums * other.sums).sum()
        pairs = self.counts.sum() * other.counts.sum() - self.counts @ other.counts
        return float(everywhere / pairs)
