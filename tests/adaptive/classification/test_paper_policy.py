import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.adaptive.classification.policies.paper import Paper, sweep
from mrl_experiments.errors import UserError
from mrl_experiments.results import Setting


def best_threshold_of_pair(grid, exits, labels, small):
    best, best_accuracy = None, -1.0
    for threshold in grid:
        chosen = [
            exits.predicted[small if exits.confidence[small, n] > threshold else small + 1, n]
            for n in range(len(exits))
        ]
        accuracy = np.mean(chosen == labels)
        if accuracy > best_accuracy:
            best, best_accuracy = threshold, accuracy
    return best


@given(st.integers(1, 30), st.booleans(), st.integers(0, 999))
def test_each_threshold_is_the_smallest_best_of_its_pair(count, tied, seed):
    generator = np.random.default_rng(seed)
    grid = np.linspace(0, 1, 9)
    confidence = generator.uniform(size=(3, count)).astype(np.float32)
    if tied:
        confidence = grid.astype(np.float32)[(confidence * 9).astype(int)]
    exits = Exits((8, 16, 32), generator.integers(2, size=(3, count)), confidence)
    labels = generator.integers(2, size=count)
    fitted = Paper(lowest=0, points=9).fit(exits, labels).thresholds
    assert list(fitted) == [best_threshold_of_pair(grid, exits, labels, small) for small in (0, 1)]


def test_the_default_grid_is_that_of_the_official_code(digits):
    assert set(Paper().fit(digits.exits, digits.labels).thresholds) <= set(np.linspace(0.1, 1, 100))


def test_sweep_gives_one_cascade_for_each_cap(digits):
    cascades = sweep(digits.exits, digits.labels)
    assert [cascade.dims[-1] for cascade in cascades.values()] == [4, 8, 16, 32, 64]
    assert cascades[Setting(policy="paper", cap=16)] == Paper(cap=16).fit(digits.exits, digits.labels)


def test_an_unknown_cap_is_refused(digits):
    with pytest.raises(UserError, match="cannot end at 5"):
        Paper(cap=5).fit(digits.exits, digits.labels)
