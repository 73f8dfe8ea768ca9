"""The classifiers that a run was trained with, ready to be compared with labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.cost import head_macs
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.nesting import default_dims


def trained_heads(queries: Embeddings, dims: Sequence[int]) -> Heads:
    """Return the classifiers.

    Raises:
        UserError: If there are none, none at any of `dims`, or no samples; if the data set numbers other
            classes than the classifiers, or labels exceed theirs.
    """
    if not len(queries):
        raise UserError("there are no samples to classify", expected="at least one")
    heads = queries.heads
    if heads is None:
        raise UserError(
            "these embeddings have no classifiers",
            expected="a run trained to classify, and a reduction that keeps its classifier",
            remedy="fit one instead: evaluation=probe",
        )
    if not any(map(heads.serves, dims)):
        raise UserError(f"no classifier at dims={list(dims)}", expected=f"one of {list(heads.dims())}")
    _check_classes(queries, heads)
    return heads


def classifier_dims(queries: Embeddings, heads: Heads, dims: Sequence[int]) -> list[int]:
    """Return the dims to compare: those that have a classifier, without the interpolated ones.

    A tied classifier serves these too, but what it says there is not comparable with that of untied ones.
    """
    nested = queries.trained_dims if len(queries.trained_dims) > 1 else default_dims(queries.width)
    served = [dim for dim in dims if heads.serves(dim)]
    return [dim for dim in served if dim in nested] or served


def head_costs(queries: Embeddings, heads: Heads, dim: int) -> dict[str, float]:
    """Return the multiply-adds of a prediction: macs of the head and, where known, network_macs with it."""
    macs = head_macs(dim, heads.classes)
    network = {"network_macs": queries.meta["macs"] + macs} if "macs" in queries.meta else {}
    return {"macs": macs, **network}


def candidates(queries: Embeddings, heads: Heads, present_only: bool) -> NDArray[np.int64]:
    """Return the classes whose logits are compared: all C, or those that occur in `queries`."""
    return np.unique(queries.labels) if present_only else np.arange(heads.classes)


def _check_classes(queries: Embeddings, heads: Heads) -> None:
    labels, count = queries.labels, heads.classes
    names = queries.classes.get("name", ())
    numbered = len(names) or count
    unknown = (labels < 0) | (labels >= count)
    problem = ""
    if queries.meta.get("unseen"):
        problem = "none of the classes is one that the run was trained on"
    elif unknown.any():
        first = labels[unknown][0]
        problem = (
            f"{unknown.sum()} of {len(labels)} labels are not among the {count} classes of the classifier, "
            f"such as {names[first] if numbered > count else first}"
        )
    elif numbered != count:
        problem = f"the data set numbers {numbered} classes, the classifier {count}"
    if problem:
        raise UserError(
            problem,
            expected="a data set with the classes the run was trained on, known by their names",
            remedy="for some of these classes: data=imagenet_r and its like, with data.source.classes=; "
            "for other classes: evaluation=knn, retrieval or probe",
        )
