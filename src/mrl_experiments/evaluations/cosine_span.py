"""Mean cosines of pairs with equal and with different labels."""

from collections.abc import Iterator, Sequence
from typing import Any

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

Array = NDArray[Any]
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
    n_images, n_texts = (np.bincount(of, minlength=len(classes)) * 1.0 for of in (own, class_index))
    for dim in tracked(dims, "comparing pairs", len(dims)):
        images = class_sums(unit_prefixes(queries.features, dim), own, len(classes))
        words = class_sums(unit_prefixes(texts.features, dim), class_index, len(classes))
        means = {
            POSITIVE: (images * words).sum() / (n_images @ n_texts),
            TEXT_IMAGE: _mean_between(images, n_images, words, n_texts),
            IMAGES: _mean_between(images, n_images, images, n_images),
            TEXTS: _mean_between(words, n_texts, words, n_texts),
        }
        for pairs, value in means.items():
            yield Measurement(dim, "cosine", float(value), {"pairs": pairs})


def _mean_between(a: Array, n_a: Array, b: Array, n_b: Array) -> Any:
    """Return the mean product of vectors of different classes, of their sums (C, d) and numbers (C,)."""
    products = a.sum(axis=0) @ b.sum(axis=0) - (a * b).sum()
    return products / (n_a.sum() * n_b.sum() - n_a @ n_b)
