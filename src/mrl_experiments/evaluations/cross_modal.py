"""Retrieval between images and texts, both ways."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.metrics import ranking
from mrl_experiments.results import Measurement
from mrl_experiments.search.database import labelled, neighbours


def cross_modal(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, k: Sequence[int]
) -> Iterator[Measurement]:
    """Yield recall@k of exact search on unit-norm prefixes, from images to texts and from texts to images.

    recall@k, direction=image_to_text: images with any of their texts among the first k of all texts / N.
    recall@k, direction=text_to_image: texts with any of their images among the first k of all images / T',
    the texts of which there is an image. Of equally near ones those that belong come last.

    Args:
        queries: N images.
        database: T texts. An image and a text with equal labels belong together; a label may have several
            of both.

    Raises:
        UserError: Without texts, when an image has none, and when k exceeds the number of either.
    """
    texts = labelled(queries, database)
    shown = np.isin(texts.labels, queries.labels)
    for direction, asked, searched, counted in (
        ("image_to_text", queries, texts, np.ones(len(queries), bool)),
        ("text_to_image", texts, queries, shown),
    ):
        for dim, found in neighbours(asked, searched, dims, max(k)).items():
            relevant = searched.labels[found.positions] == asked.labels[:, None]
            for count in k:
                recall = float(ranking.hit(relevant[counted], count).mean())
                yield Measurement(dim, f"recall@{count}", recall, {"direction": direction})
