"""Zero-shot classification: the nearest mean of the texts of a class."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.nested_accuracy import label_rank
from mrl_experiments.results import Measurement, measured
from mrl_experiments.search.class_means import class_sums
from mrl_experiments.search.database import labelled
from mrl_experiments.search.same_rows import refuse_same_rows

BLOCK = 8192  # images compared with all classes at a time


def zero_shot(queries: Embeddings, database: Embeddings | None, dims: Sequence[int]) -> Iterator[Measurement]:
    """Yield how often the nearest class of an image is its own (Table 18; Radford et al., 2021, Section 3.1).

    At each dim a class is the mean of the unit-norm prefixes of its texts, normalized again; the nearest
    class has the largest cosine. Classes are all that have a text.

    top1, top5: images whose class is among the 1, 5 nearest / N; a tie counts against it.
    classes: how many there are.

    Args:
        queries: Images.
        database: Texts of the classes, one or several each.

    Raises:
        UserError: Without texts, when an image's class has none, or when images and texts are the same.
    """
    refuse_same_rows(queries, database, "images, and the texts of their classes")
    texts = labelled(queries, database)
    classes, class_index = np.unique(texts.labels, return_inverse=True)
    labels = torch.from_numpy(np.searchsorted(classes, queries.labels))
    for dim in tracked(dims, "classifying", len(dims)):
        sums = class_sums(unit_prefixes(texts.features, dim), class_index, len(classes))
        means = unit_prefixes(sums.astype(np.float32), dim)
        hits = np.zeros(2)
        for start in range(0, len(queries), BLOCK):
            rows = slice(start, start + BLOCK)
            images = unit_prefixes(queries.features[rows], dim)
            rank = label_rank(torch.from_numpy(images @ means.T), labels[rows])
            hits += [int((rank < count).sum()) for count in (1, 5)]
        top1, top5 = hits / len(queries)
        yield from measured(dim, {"top1": top1, "top5": top5, "classes": len(classes)})
