import numpy as np
import pytest

from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.adaptive.classification.oracle import oracle


def test_four_samples_by_hand():
    predicted = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]])
    exits = Exits((8, 16, 32), predicted, np.ones_like(predicted, np.float32))
    best = oracle(exits, np.array([1, 1, 1, 1]))
    assert best.first_correct == {8: 0.25, 16: 0.5, 32: 0.0}
    assert best.always_wrong == 0.25
    assert best.top1 == 0.75
    assert best.expected_dim == (8 + 16 + 16 + 32) / 4


def test_shares_of_digits_sum_to_one_and_bound_each_size(digits):
    best = oracle(digits.exits, digits.labels)
    assert sum(best.first_correct.values()) + best.always_wrong == pytest.approx(1)
    assert best.top1 > (digits.exits.predicted == digits.labels).mean(axis=1).max()
