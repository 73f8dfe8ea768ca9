"""A long-tailed stream: each sample is classified by the nearest class mean and then added to its class."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.results import Measurement
from mrl_experiments.search.class_means import class_sums
from mrl_experiments.search.running_means import predict_then_update
from mrl_experiments.search.same_rows import refuse_same_rows, told_same_rows

Labels = NDArray[np.int64]


def stream(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    imbalance: float | None,
    head: int,
    seed: int,
) -> Iterator[Measurement]:
    """Yield accuracies of nearest running class means over a stream, predict then update (Table 16).

    The stream's classes that occur in `database` begin with its mean (pretrain), all others with the first
    sample of their own (novel), which counts as wrong.

    pretrain_head, novel_head, pretrain_tail, novel_tail, mean_per_class: right / samples of a class, mean
    over the classes of the group; a group without classes has no row. top1: right / samples of the stream.
    Protocol: FLUID (Wallingford et al., 2020).

    Args:
        imbalance: Samples of the commonest class for one of the rarest, in a sequence drawn from `queries`,
            see `long_tail`; None: the queries in their stored order, such as a FLUID sequence.
        head: Classes with more samples in the stream are its head, others its tail.

    Raises:
        UserError: Without a database, or when it has none of the classes.
    """
    database, known = _begun(queries, database)
    order = np.arange(len(queries)) if imbalance is None else long_tail(queries, known, imbalance, seed)
    classes, class_index = np.unique(queries.labels[order], return_inverse=True)
    pretrain = np.isin(classes, known)
    counts = np.bincount(class_index)
    samples, sums = queries.features[order], _sums(database, classes)
    for dim, predicted in predict_then_update(samples, class_index, sums, pretrain, dims).items():
        right = predicted == class_index
        share = np.bincount(class_index, weights=right) / counts
        for name, members in _groups(pretrain, counts > head).items():
            if members.any():
                yield Measurement(dim, name, float(share[members].mean()))
        yield Measurement(dim, "top1", float(right.mean()))


def _groups(pretrain: NDArray[np.bool_], head: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    return {
        "pretrain_head": pretrain & head,
        "novel_head": ~pretrain & head,
        "pretrain_tail": pretrain & ~head,
        "novel_tail": ~pretrain & ~head,
        "mean_per_class": np.ones_like(head),
    }


def _begun(queries: Embeddings, database: Embeddings | None) -> tuple[Embeddings, Labels]:
    """Return the database and those classes of the stream that it knows."""
    known = np.intersect1d(queries.labels, [] if database is None else database.labels)
    if database is None or not len(known):
        raise UserError(
            "there is no database to begin with"
            if database is None
            else "no class of the stream has a mean to begin with",
            expected="embeddings of the classes the run was trained on, numbered as in the stream",
            remedy="name them: database=kanji1k/train for data=kanji_stream, database=imagenet/train for "
            "data=fluid",
        )
    refuse_same_rows(queries, database, "a stream of other samples than those its means begin with")
    told_same_rows(queries, database)
    return database, known.astype(np.int64)


def _sums(database: Embeddings, classes: Labels) -> NDArray[np.float64]:
    """Add up the features of each class in the database, (C, D); zeros for those it lacks."""
    class_index = np.searchsorted(classes, database.labels).clip(max=len(classes) - 1)
    ours = classes[class_index] == database.labels
    class_index = np.where(ours, class_index, len(classes))  # the others go into one row more
    return class_sums(database.features, class_index, len(classes) + 1)[:-1]


def long_tail(samples: Embeddings, known: Labels, imbalance: float, seed: int) -> Labels:
    """Return rows of `samples` in random order, fewer of a class the rarer it is.

    The r-th of C classes gets imbalance^(-r / (C - 1)) times as many as the largest has, at least one
    (Cui et al., 2019), those in `known` and the others each for themselves, so that both have a head and a
    tail. Rarity is the class's frequency rank where the data set states it, else random.
    """
    random = np.random.default_rng(seed)
    classes, counts = np.unique(samples.labels, return_counts=True)
    ranks = _ranks(samples, classes, random)
    quota = np.empty(len(classes), np.int64)
    for group in (np.isin(classes, known), ~np.isin(classes, known)):
        members = np.flatnonzero(group)[np.argsort(ranks[group], kind="stable")]
        share = np.arange(len(members)) / max(1, len(members) - 1)
        quota[members] = np.maximum(1, np.round(counts.max() * imbalance**-share))
    rows = np.lexsort((random.random(len(samples)), samples.labels))
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # inside its class
    kept: Labels = rows[number < np.repeat(quota, counts)]
    return random.permutation(kept)


def _ranks(samples: Embeddings, classes: Labels, random: np.random.Generator) -> NDArray[np.float64]:
    if "frequency" not in samples.classes:
        return random.permutation(len(classes)).astype(np.float64)
    frequency = samples.known("frequency")
    return np.array([np.inf if frequency[c] is None else frequency[c] for c in classes.tolist()])
