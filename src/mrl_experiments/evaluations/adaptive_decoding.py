"""Adaptive decoding: the vocabulary head of a causal language model exits at the first confident dim."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier
from mrl_experiments.adaptive.classification.exits import Exits, read_exits
from mrl_experiments.adaptive.classification.outcome import Sweep, all_cascades, outcome
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import bits_per_byte, bytes_of_text
from mrl_experiments.results import Measurement, Setting, measured
from mrl_experiments.trained_heads import classifier_dims, trained_heads

Features = NDArray[np.float32]
Scores = dict[tuple[Setting, int], list[dict[str, float]]]  # by setting and last dim, one entry per fold


def adaptive_decoding(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    policies: Sequence[Sweep],
    folds: int,
    timed: int,
) -> Iterator[Measurement]:
    """Yield quality, cost and speed of next-token heads with early exit; policy="single" is each dim alone.

    The text is cut into `folds` stretches. Thresholds fitted on one of them are measured on all others, so
    each token counts folds - 1 times and never for thresholds that saw it. A row's `dim` is the last.

    top1, nll, perplexity, bits_per_byte: as for `language`, of the distribution at the dim a token left at.
    expected_dim: mean of that dim. expected_dim_cumulative: mean sum of all dims tried. head_macs:
    multiply-adds of the head per token, of all dims tried; those of a tied head (MRL-E) add the new columns
    to the product they have, so the last dim is all they cost.
    tokens_per_s: likeliest tokens with their probability, in batches with one thread, the network not
    counted: the median over folds, in each of which all settings take turns on the same `timed` tokens.

    Raises:
        UserError: As `language` does, and for hidden tokens.
    """
    del database
    text_bytes = bytes_of_text(queries.meta)
    if text_bytes is None:
        raise UserError(
            "hidden tokens are not decoded one after the other", expected="a causal language model"
        )
    if folds < 2 or timed < 1 or len(queries) < folds:
        raise UserError(
            f"folds={folds}, timed={timed} of {len(queries)} tokens",
            expected="at least two folds with a token each, and a token to measure the speed on",
        )
    heads = trained_heads(queries, dims)
    exits = read_exits(queries.features, heads, classifier_dims(queries, heads, dims))
    for (setting, dim), scores in _scores(exits, queries, heads, policies, folds, timed).items():
        speed = median(score.pop("tokens_per_s") for score in scores)
        tokens = [score.pop("tokens") for score in scores]
        means = {
            metric: float(np.average([score[metric] for score in scores], weights=tokens))
            for metric in scores[0]
        }
        means["perplexity"] = float(np.exp(means["nll"]))
        means["bits_per_byte"] = bits_per_byte(means["nll"], len(queries), text_bytes)
        yield from measured(dim, {**means, "tokens_per_s": speed}, setting)


def _scores(
    exits: Exits, queries: Embeddings, heads: Heads, policies: Sequence[Sweep], folds: int, timed: int
) -> Scores:
    labels = queries.labels
    values = {"top1": exits.correct(labels), "nll": _nll(exits, queries.features, heads, labels)}
    scores: Scores = defaultdict(list)
    parts = np.array_split(np.arange(len(exits)), folds)
    for fitted in tracked(parts, "fitting thresholds", folds):
        measured = np.setdiff1d(np.arange(len(exits)), fitted)
        cascades = all_cascades(policies, exits.take(fitted), labels[fitted])
        speeds = _tokens_per_s(cascades, queries.features[measured[:timed]], heads)
        held_out = exits.take(measured)
        there = {metric: value[:, measured] for metric, value in values.items()}
        for key, cascade in cascades.items():
            score = outcome(cascade, held_out, heads, there)
            scores[key].append({**score, "tokens": len(measured), "tokens_per_s": speeds[key]})
    return scores


def _nll(exits: Exits, features: Features, heads: Heads, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return -log p(label) in nats at each dim, (L, N): the label's logit is as far below the largest."""
    behind = [
        heads.logits_of(features, dim, predicted) - heads.logits_of(features, dim, labels)
        for dim, predicted in zip(exits.dims, exits.predicted, strict=True)
    ]
    return np.stack(behind).astype(np.float64) - np.log(exits.confidence)


def _tokens_per_s(
    cascades: Mapping[tuple[Setting, int], Cascade], features: Features, heads: Heads
) -> dict[tuple[Setting, int], float]:
    """Return how many tokens (N, D) each cascade predicts a second; the first is run once before."""
    speeds = {}
    with threadpool_limits(1):
        for key, cascade in (next(iter(cascades.items())), *cascades.items()):
            head = AdaptiveClassifier(heads)
            head.cascade = cascade.pruned()
            start = perf_counter()
            head.predict(features)
            speeds[key] = len(features) / (perf_counter() - start)
    return speeds
