import numpy as np
import pytest

from mrl_experiments.adaptive.bounds import least_samples, p_value, upper_bound

DELTA = 0.05


@pytest.mark.parametrize("count", [20, 200, 1000])
@pytest.mark.parametrize("share, size", [(0.002, 1.0), (0.01, 1.0), (0.1, 0.1)])
@pytest.mark.parametrize("binary", [False, True])
def test_the_bound_is_above_the_truth_also_of_rare_losses(count, share, size, binary):
    """A normal interval of one in 500 and 200 queries is below it in two of three samples."""
    if binary and size < 1:
        pytest.skip("losses of a tenth")
    draws = np.random.default_rng(0)
    samples = size * (draws.random((400, count)) < share)
    wrong = np.mean([upper_bound(losses, DELTA, binary=binary) < share * size for losses in samples])
    assert wrong <= DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / 400)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("drop", [0.01, 0.1])
def test_as_many_as_are_needed_show_a_loss_and_one_fewer_does_not(drop, binary):
    needed = least_samples(drop, DELTA, binary=binary)
    assert p_value(np.zeros(needed), drop, DELTA, binary=binary) <= DELTA
    assert p_value(np.zeros(needed - 1), drop, DELTA, binary=binary) > DELTA


def test_the_binary_bound_is_that_of_clopper_and_pearson():
    from scipy.stats import binomtest

    losses = np.repeat([0.0, 1.0], [197, 3])
    interval = binomtest(3, 200, alternative="less").proportion_ci(0.95, method="exact")
    assert upper_bound(losses, DELTA, binary=True) == pytest.approx(interval.high, abs=1e-4)


def test_nothing_is_shown_by_no_sample():
    assert upper_bound(np.zeros(0), DELTA) == 1
