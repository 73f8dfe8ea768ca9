"""Adaptive classification: accuracy and expected dim of cascades over the nested dims."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.exits import Exits, read_exits
from mrl_experiments.adaptive.classification.oracle import oracle
from mrl_experiments.adaptive.classification.outcome import (
    SINGLE,
    Sweep,
    all_cascades,
    outcome,
    saves_nothing,
)
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.loops import tracked
from mrl_experiments.notices import print_once
from mrl_experiments.results import Measurement, Setting, mean_and_deviation, measured
from mrl_experiments.trained_heads import candidates, classifier_dims, trained_heads

Scores = dict[tuple[Setting, int], list[dict[str, float]]]  # by setting and last dim, one entry per split


def adaptive_classification(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    policies: Sequence[Sweep],
    splits: int,
    fit_share: float,
    present_classes_only: bool,
) -> Iterator[Measurement]:
    """Yield means and deviations over random splits of `queries`, and the oracle's shares of all of it.

    Each split fits the thresholds on `fit_share` of the samples and measures on all others. A row's `dim` is
    the last dim of its cascade; `setting` holds the policy, its options, and whether the embeddings were
    averaged with those of flipped images. policy="single" is each dim alone, on the same splits.

    top1: right answers / measured samples. expected_dim: mean of the dim that answers.
    expected_dim_cumulative: mean sum of all dims computed on the way. head_macs: multiply-adds of the
    classifiers per prediction. `_std`: deviation over splits, of which there must be two. A run with one dim
    has only policy="single".

    policy="oracle" uses all samples: top1 = right at any dim / all, first_correct = first right at this dim /
    all, always_wrong. Source: Table 3 and Figure 6, Tables 22 and 23 of the paper.

    Args:
        present_classes_only: As for `trained_head`.

    Raises:
        UserError: Without classifiers or labels.
    """
    del database
    if not 0 < fit_share < 1 or splits < 1 or not 0 < round(fit_share * len(queries)) < len(queries):
        raise UserError(
            f"fit_share={fit_share}, splits={splits} of {len(queries)} samples",
            expected="at least one split, and a share between 0 and 1 that leaves samples on both sides",
        )
    heads = trained_heads(queries, dims)
    classes = candidates(queries, heads, present_classes_only)
    heads, labels = heads.of_classes(classes), np.searchsorted(classes, queries.labels)
    exits = read_exits(queries.features, heads, classifier_dims(queries, heads, dims))
    scores = _scores(exits, labels, heads, policies, splits, fit_share)
    tta = "flip" if queries.meta.get("tta", "none") != "none" else "none"
    fitted = round(fit_share * len(queries))
    for (setting, dim), repeats in scores.items():
        always = len(exits.dims) > 1 and all(score["expected_dim"] == exits.dims[-1] for score in repeats)
        if always and setting != SINGLE:
            print_once(saves_nothing(setting, exits, labels, fitted))
        for metric in repeats[0]:
            summary = mean_and_deviation(metric, [score[metric] for score in repeats])
            yield from measured(dim, summary, Setting(setting, tta=tta))
    yield from _oracle_rows(exits, labels, Setting(policy="oracle", tta=tta))


def _scores(
    exits: Exits,
    labels: NDArray[np.int64],
    heads: Heads,
    policies: Sequence[Sweep],
    splits: int,
    fit_share: float,
) -> Scores:
    correct = exits.correct(labels)
    scores: Scores = defaultdict(list)
    for seed in tracked(range(splits), "fitting thresholds", splits):
        order = np.random.default_rng(seed).permutation(len(exits))
        fitted, measured = np.split(order, [round(fit_share * len(order))])
        held_out, values = exits.take(measured), {"top1": correct[:, measured]}
        for key, cascade in all_cascades(policies, exits.take(fitted), labels[fitted]).items():
            scores[key].append(outcome(cascade, held_out, heads, values))
    return scores


def _oracle_rows(exits: Exits, labels: NDArray[np.int64], setting: Setting) -> Iterator[Measurement]:
    best = oracle(exits, labels)
    for dim, share in best.first_correct.items():
        yield Measurement(dim, "first_correct", share, setting)
    shares = {name: getattr(best, name) for name in ("top1", "always_wrong", "expected_dim")}
    yield from measured(exits.dims[-1], shares, setting)
