import warnings
from functools import partial

import numpy as np
import pytest

from mrl_experiments.adaptive.bounds import p_value
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier
from mrl_experiments.adaptive.classification.exits import read_exits
from mrl_experiments.adaptive.classification.policies.joint import Joint
from mrl_experiments.adaptive.classification.policies.risk_control import (
    RiskControl,
    samples_needed,
    sweep,
)
from mrl_experiments.errors import UserError

DIMS = (8, 16, 32, 64, 128)
DROP, DELTA, SPLITS = 0.02, 0.1, 200


def loss_and_size(cascade, exits, labels):
    stop = cascade.stop(exits)
    correct = exits.correct(labels)
    loss = correct[-1].mean() - correct[stop, np.arange(len(stop))].mean()
    return loss, np.asarray(exits.dims)[stop].mean()


@pytest.mark.slow
def test_the_promise_holds_over_200_splits(synthetic):
    """The population's loss is known exactly, and each split draws from it with replacement."""
    logits, labels = synthetic(0, 5000, DIMS)
    exits = read_exits(logits)
    outcomes = {"promised": [], "unpromised": []}
    for split in range(SPLITS):
        rows = np.random.default_rng(split).integers(len(labels), size=1500)
        sample = exits.take(rows)
        promised = RiskControl(DROP, DELTA).fit(sample, labels[rows])
        outcomes["promised"].append(loss_and_size(promised, exits, labels))
        if split < SPLITS // 4:
            outcomes["unpromised"].append(loss_and_size(Joint(DROP).fit(sample, labels[rows]), exits, labels))
    losses, sizes = np.transpose(outcomes["promised"])
    assert np.mean(losses > DROP) <= DELTA
    assert np.mean(np.transpose(outcomes["unpromised"])[0] > DROP) > DELTA  # the promise is not idle here
    assert np.median(sizes) < DIMS[-1] / 2


@pytest.mark.parametrize("gains", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("count", "drop"), [(50, 0.1), (1000, 0.01)])
def test_the_p_value_is_valid_at_the_boundary(gains, count, drop):
    """A loss of exactly `drop` is taken for a smaller one in at most a share `DELTA` of trials."""
    generator = np.random.default_rng(0)
    losses = generator.choice([1, -1, 0], p=[gains + drop, gains, 1 - 2 * gains - drop], size=(3000, count))
    rejected = np.mean([p_value(row.astype(float), drop, DELTA) <= DELTA for row in losses])
    assert rejected <= DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / len(losses))


@pytest.mark.parametrize(("gains", "least"), [(0.0, 0.99), (0.01, 0.9), (0.05, 0.5)])
def test_the_p_value_has_power_that_follows_the_disagreement(gains, least):
    generator = np.random.default_rng(0)
    losses = generator.choice([1, -1, 0], p=[gains, gains, 1 - 2 * gains], size=(500, 5000))
    assert np.mean([p_value(row.astype(float), 0.01, DELTA) <= DELTA for row in losses]) > least


def test_without_evidence_the_full_size_answers(digits):
    few = np.arange(40)
    cascade = RiskControl(0.005).fit(digits.exits.take(few), digits.labels[few])
    assert cascade.pruned().dims == (64,)


def test_digits_need_few_dimensions_at_a_generous_drop(digits):
    cascade = RiskControl(0.05).fit(digits.exits, digits.labels)
    assert loss_and_size(cascade, digits.exits, digits.labels)[1] < 20


def test_sweep_equals_separate_fits(digits):
    cascades = sweep(digits.exits, digits.labels, drops=[0.05, 0.1], delta=0.1)
    fitted = RiskControl(0.1, 0.1).fit(digits.exits, digits.labels)
    losses = [loss_and_size(cascade, digits.exits, digits.labels) for cascade in cascades.values()]
    assert list(cascades) == [{"policy": "risk_control", "drop": drop, "delta": 0.1} for drop in (0.05, 0.1)]
    assert losses[1][1] <= losses[0][1]
    assert loss_and_size(fitted, digits.exits, digits.labels)[1] == pytest.approx(losses[1][1], rel=0.1)


@pytest.mark.parametrize("options", [{"drop": 0.0}, {"drop": 1.0}, {"delta": 0.0}, {"delta": 1.0}])
def test_promises_outside_0_to_1_are_refused(options):
    with pytest.raises(UserError, match="risk_control"):
        RiskControl(**options)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (None, "labels of shape|0 labels"),
        ([], "labels of shape|0 labels"),
        ([1], "1 labels for"),
        ([-1], "0 labels for"),
    ],
)
def test_labels_that_do_not_fit_are_refused(digits, labels, problem):
    given = None if labels is None else np.array(labels, np.int64)
    for fit in (RiskControl(0.1, 0.1).fit, partial(sweep, drops=[0.1], delta=0.1)):
        with pytest.raises(UserError, match=problem):
            fit(digits.exits, given)


@pytest.mark.parametrize("drop", [0.005, 0.02, 0.1])
def test_a_promise_takes_as_many_samples_as_are_said_to_be_needed(drop):
    tested = samples_needed(drop, DELTA) // 2
    assert p_value(np.zeros(tested), drop, DELTA) <= DELTA < p_value(np.zeros(tested - 1), drop, DELTA)


def test_a_classifier_that_saves_nothing_warns_and_says_how_many_samples_the_promise_takes(digits):
    few, heads = np.arange(40), digits.heads
    with pytest.warns(
        UserWarning, match=r"nothing is saved; the promise takes at least [\d,]+ .*has 40"
    ) as said:
        AdaptiveClassifier(heads).fit(RiskControl(0.005), digits.features[few], digits.labels[few])
    assert f"{samples_needed(0.005, 0.1):,} labelled samples" in str(said[0].message)
    with warnings.catch_warnings(action="error"):
        AdaptiveClassifier(heads).fit(RiskControl(0.5), digits.features, digits.labels)
