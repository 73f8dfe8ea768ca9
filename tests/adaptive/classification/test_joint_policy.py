import itertools

import numpy as np
import pytest

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import read_exits
from mrl_experiments.adaptive.classification.frontier import Frontier
from mrl_experiments.adaptive.classification.policies.joint import Joint, sweep
from mrl_experiments.adaptive.classification.policies.paper import Paper
from mrl_experiments.errors import UserError

DROPS = (0.0, 0.1, 0.2)


def accuracy_and_size(cascade, exits, labels):
    stop = cascade.stop(exits)
    right = exits.correct(labels)[stop, np.arange(len(stop))]
    return right.mean(), np.asarray(exits.dims)[stop].mean()


def smallest_size_of_all_thresholds(exits, labels, drop):
    levels = [[0.0, *map(float, np.unique(confidence))] for confidence in exits.confidence[:-1]]
    measured = [
        accuracy_and_size(Cascade(exits.dims, thresholds), exits, labels)
        for thresholds in itertools.product(*levels)
    ]
    least = exits.correct(labels)[-1].mean() - drop - 1e-12
    return min(size for accuracy, size in measured if accuracy >= least)


def size_ratios(synthetic, dims, count, seeds):
    for seed in range(seeds):
        logits, labels = synthetic(seed, count, dims, classes=3, skill=1.0)
        exits = read_exits(logits)
        for drop in DROPS:
            _, size = accuracy_and_size(Joint(drop).fit(exits, labels), exits, labels)
            yield size / smallest_size_of_all_thresholds(exits, labels, drop)


def test_two_sizes_are_solved_exactly(synthetic):
    assert max(size_ratios(synthetic, (8, 16), 40, seeds=20)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("dims", "count"), [((8, 16, 32), 14), pytest.param((8, 16, 32, 64), 10, marks=pytest.mark.slow)]
)
def test_more_sizes_come_close_to_brute_force(synthetic, dims, count):
    ratios = list(size_ratios(synthetic, dims, count, seeds=15))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.03
    assert np.mean(np.isclose(ratios, 1)) > 0.8


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.05])
def test_the_drop_holds_on_the_fitted_samples(digits, drop):
    accuracy, size = accuracy_and_size(
        Joint(drop).fit(digits.exits, digits.labels), digits.exits, digits.labels
    )
    assert accuracy >= digits.exits.correct(digits.labels)[-1].mean() - drop - 1e-12
    assert size < 16


def test_a_larger_drop_is_not_dearer(digits):
    cascades = sweep(digits.exits, digits.labels, drops=[0.0, 0.005, 0.01, 0.02, 0.05, 0.2])
    sizes = [accuracy_and_size(cascade, digits.exits, digits.labels)[1] for cascade in cascades.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_new_samples_gain_over_pairwise_thresholds(synthetic):
    logits, labels = synthetic(0, 20000, (8, 16, 32, 64, 128, 256, 512))
    exits = read_exits(logits)
    fitted, new = np.arange(5000), np.arange(5000, 20000)
    pairwise = Paper().fit(exits.take(fitted), labels[fitted])
    accuracy, size = accuracy_and_size(pairwise, exits.take(new), labels[new])
    joint = Joint(0.005).fit(exits.take(fitted), labels[fitted])
    joint_accuracy, joint_size = accuracy_and_size(joint, exits.take(new), labels[new])
    assert joint_size < 0.8 * size
    assert joint_accuracy > accuracy - 0.002


def test_points_are_ordered_and_undominated(digits):
    frontier = Frontier(digits.exits, digits.labels)
    for drop in (0.0, 0.02, 0.1):
        frontier.cheapest(drop)
    for low, high in itertools.pairwise(frontier.points):
        assert low.expected_dim < high.expected_dim
        assert low.accuracy < high.accuracy
    for point in frontier.points:
        measured = accuracy_and_size(frontier.cascade(point), digits.exits, digits.labels)
        assert measured == pytest.approx((point.accuracy, point.expected_dim))


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_an_impossible_drop_is_refused(drop):
    with pytest.raises(UserError, match="drop"):
        Joint(drop)
