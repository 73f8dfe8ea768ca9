"""Superclasses: accuracy over groups of classes, and over the classes inside a group."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_mapping
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import check_logits
from mrl_experiments.nested_accuracy import SAME_SCORE, label_rank
from mrl_experiments.results import Measurement
from mrl_experiments.trained_heads import candidates, trained_heads

BLOCK = 4096
IMAGENET = Path(__file__).parents[1] / "paper" / "imagenet_superclasses.csv"
SHIPPED = {"imagenet": IMAGENET, "conf/superclasses/imagenet.csv": IMAGENET}  # the second: where it once was
REJECT = -1
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
    candidates(queries, heads, present_only=False)
    groups = _Groups.of(queries, mapping, superclasses)
    shown = groups.indices(within)
    superclass_of = groups.of_class[queries.labels]
    for dim in tracked(filter(heads.serves, dims), "classifying", len(dims)):
        found, inside = _hits(queries, dim, groups.of_class)
        yield Measurement(dim, "top1", float(found.mean()), {"superclasses": superclasses})
        yield Measurement(dim, "top1", float(inside[superclass_of != REJECT].mean()), {"within": "all"})
        for index in shown:
            yield Measurement(
                dim, "top1", float(inside[superclass_of == index].mean()), {"within": groups.names[index]}
            )
    yield Measurement(queries.width, "classes", float((groups.of_class != REJECT).sum()), {"within": "all"})
    for index, name in enumerate(groups.names):
        yield Measurement(queries.width, "classes", float((groups.of_class == index).sum()), {"within": name})


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


@dataclass(frozen=True)
class _Groups:
    """names: of S superclasses, the largest first. of_class: (C,) the index of each class's, or REJECT."""

    names: list[str]
    of_class: Labels

    @classmethod
    def of(cls, queries: Embeddings, mapping: str | None, superclasses: int) -> "_Groups":
        named = _superclasses(queries, mapping)
        shown = {named[label] for label in np.unique(queries.labels).tolist()}  # some sets show some classes
        counts = Counter(name for name in named if name is not None and name in shown)
        if not 2 <= superclasses <= len(counts):
            raise UserError(
                f"evaluation.superclasses={superclasses}",
                expected=f"2 to {len(counts)}, the superclasses of these samples",
            )
        names = sorted(counts, key=lambda name: (-counts[name], name))[:superclasses]
        index = {name: number for number, name in enumerate(names)}
        return cls(names, np.array([index.get(name or "", REJECT) for name in named]))

    def indices(self, within: Sequence[str] | None) -> list[int]:
        """Return the superclasses with rows of their own.

        Raises:
            UserError: For a name that is none.
        """
        unknown = sorted(set(within or ()) - set(self.names))
        if unknown:
            raise UserError(
                f"evaluation.within has {', '.join(unknown)}", expected=f"some of {', '.join(self.names)}"
            )
        return list(range(8))[: len(self.names)] if within is None else [self.names.index(w) for w in within]


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
