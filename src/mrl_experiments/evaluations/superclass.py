"""Superclasses: accuracy over groups of classes, and over the classes inside a group."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments.directions import SAME_SCORE
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_mapping
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import check_logits
from mrl_experiments.nested_accuracy import label_rank
from mrl_experiments.results import Measurement
from mrl_experiments.trained_heads import trained_heads

BLOCK = 4096
IMAGENET = Path(__file__).parents[1] / "paper" / "imagenet_superclasses.csv"
SHIPPED = {"imagenet": IMAGENET, "conf/superclasses/imagenet.csv": IMAGENET}  # the second: where it once was
REJECT = -1
SHOWN = 8  # superclasses with rows of their own, unless others are named
Labels = NDArray[np.int64]


def superclass(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    mapping: str | None,
    superclasses: int,
    within: Sequence[str] | None,
) -> Iterator[Measurement]:
    """Yield the accuracy of the heads over superclasses and inside them (Tables 24, 25; Figures 10, 11).

    top1 at superclasses=S: samples whose predicted class has the superclass of their class, of S + 1 / all
    samples. top1 at within=<name>: samples of a superclass whose class has the largest logit among those of
    the superclass / its samples; within="all": over all S. classes: how many classes a superclass has.
    A tie, of two superclasses or of two classes inside one, counts against the label.

    Args:
        mapping: A file that names the superclass of a class (JSON, or CSV with a heading), or "imagenet", the
            paper's; classes it leaves out have none. None: the data set's own, the radical for Kanji.
        superclasses: The S with most classes count, all other classes are one more answer, "reject".
        within: Those with rows of their own; None: the eight with most classes.

    Raises:
        UserError: Without heads, for a mapping of other classes, and for more superclasses than there are.
    """
    del database
    heads = trained_heads(queries, dims)
    names, of_class = _largest(queries, mapping, superclasses)
    if unknown := sorted({*(within or ())} - {*names}):
        raise UserError(f"evaluation.within has {', '.join(unknown)}", expected=f"some of {', '.join(names)}")
    superclass_of = of_class[queries.labels]
    for dim in tracked(filter(heads.serves, dims), "classifying", len(dims)):
        found, inside = _hits(queries, dim, of_class)
        yield Measurement(dim, "top1", float(found.mean()), {"superclasses": superclasses})
        yield Measurement(dim, "top1", float(inside[superclass_of != REJECT].mean()), {"within": "all"})
        for name in names[:SHOWN] if within is None else within:
            share = float(inside[superclass_of == names.index(name)].mean())
            yield Measurement(dim, "top1", share, {"within": name})
    yield Measurement(queries.width, "classes", float((of_class != REJECT).sum()), {"within": "all"})
    for index, name in enumerate(names):
        yield Measurement(queries.width, "classes", float((of_class == index).sum()), {"within": name})


def _hits(queries: Embeddings, dim: int, of_class: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each sample (Q,) if its superclass is found, and its class among those of that."""
    assert queries.heads is not None
    found, inside = np.empty(len(queries), bool), np.empty(len(queries), bool)
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        labels = queries.labels[rows]
        logits = queries.heads.logits(queries.features[rows], dim)
        check_logits(logits)
        others = of_class != of_class[labels][:, None]
        logits_inside = np.where(others, -np.inf, logits)
        found[rows] = logits_inside.max(axis=1) - SAME_SCORE > np.where(others, logits, -np.inf).max(axis=1)
        inside[rows] = label_rank(torch.from_numpy(logits_inside), torch.from_numpy(labels)).numpy() == 0
    return found, inside


def _largest(queries: Embeddings, mapping: str | None, count: int) -> tuple[list[str], Labels]:
    """Return the `count` largest superclasses, and the index of each class's (C,), or REJECT."""
    named = _superclasses(queries, mapping)
    shown = {named[label] for label in np.unique(queries.labels).tolist()}  # some sets show some classes
    sizes = Counter(name for name in named if name is not None and name in shown)
    if not 2 <= count <= len(sizes):
        raise UserError(
            f"evaluation.superclasses={count}",
            expected=f"2 to {len(sizes)}, the superclasses of these samples",
        )
    names = sorted(sizes, key=lambda name: (-sizes[name], name))[:count]
    index = {name: number for number, name in enumerate(names)}
    return names, np.array([index.get(name or "", REJECT) for name in named])


def _superclasses(queries: Embeddings, mapping: str | None) -> list[str | None]:
    """Return the superclass of each class, by label, or None."""
    if mapping is None:
        return queries.known("superclass")
    classes = queries.known("name")
    of = read_mapping(SHIPPED.get(mapping, Path(mapping).expanduser()), classes)
    strangers = sorted(of.keys() - set(classes))
    if strangers:
        raise UserError(
            f"{mapping} maps {len(strangers)} classes that {queries.meta.get('dataset')} lacks, such as "
            f"{strangers[0]}",
            expected=f"names of its {len(classes)} classes, such as {classes[0]}",
        )
    return [of.get(name) for name in classes]
