"""Sequences in which few classes are common and many are rare."""

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError

Rows = NDArray[np.int64]


def long_tail(samples: Embeddings, known: Rows, imbalance: float, seed: int) -> Rows:
    """Return rows of `samples` in random order, fewer of a class the rarer it is.

    The r-th of C classes gets imbalance^(-r / (C - 1)) times as many as the largest has, at least one
    (Cui et al., 2019), those in `known` and the others each for themselves, so that both have a head and a
    tail. Rarity is the class's frequency rank where the data set states it, else random.
    Raises UserError for an imbalance below 1.
    """
    if not imbalance >= 1:
        raise UserError(
            f"evaluation.imbalance={imbalance}",
            expected="at least 1, or null for the stored order",
        )
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
    kept: Rows = rows[number < np.repeat(quota, counts)]
    return random.permutation(kept)


def _ranks(samples: Embeddings, classes: Rows, random: np.random.Generator) -> NDArray[np.float64]:
    if "frequency" not in samples.classes:
        return random.permutation(len(classes)).astype(np.float64)
    frequency = samples.known("frequency")
    return np.array([np.inf if frequency[c] is None else frequency[c] for c in classes.tolist()])
