"""A run's own classifiers, ready to be compared with labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads


def own_heads(queries: Embeddings, dims: Sequence[int]) -> Heads:
    """Return the classifiers. Raises UserError when there are none, or none at any of `dims`."""
    heads = queries.heads
    if heads is None:
        raise UserError(
            "these embeddings have no classifiers",
            expected="a run trained to classify, and a reduction that keeps its classifier",
            remedy="fit one instead: evaluation=probe",
        )
    if not any(map(heads.serves, dims)):
        raise UserError(f"no classifier at dims={list(dims)}", expected=f"one of {list(heads.dims())}")
    return heads


def candidates(queries: Embeddings, heads: Heads, present_only: bool) -> NDArray[np.int64]:
    """Return the classes whose logits are compared: all C, or those that occur in `queries`.

    Raises UserError when the data set numbers other classes than the classifiers, or labels exceed theirs.
    """
    labels, count = queries.labels, heads.classes
    numbered = len(queries.classes.get("name", ())) or count
    unknown = (labels < 0) | (labels >= count)
    if unknown.any() or numbered != count:
        raise UserError(
            f"{unknown.sum()} of {len(labels)} labels are not among the {count} classes of the classifier, "
            f"such as {labels[unknown][0]}"
            if unknown.any()
            else f"the data set numbers {numbered} classes, the classifier {count}",
            expected="a data set with the classes the run was trained on, in their order",
            remedy="for some of these classes: data=imagenet_r and its like, with data.source.classes=; "
            "for other classes: evaluation=knn, retrieval or probe",
        )
    return np.unique(labels) if present_only else np.arange(count)
