"""What a sample shows of an expected loss, with confidence and for any number of samples.

An interval by a normal distribution does not hold for rare losses: where none is seen, it has no width.
"""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

LARGEST_BET = 0.75  # of the stake that a single sample could lose whole
DIGITS = 4  # of a bound


def p_value(losses: NDArray[np.float64], drop: float, delta: float, *, binary: bool = False) -> float:
    """Return a p-value, valid for any number of samples, of "the expected loss is at least `drop`".

    No sample gives 1. A bettor stakes a share of the wealth on each loss falling below `drop`. Under the
    hypothesis the wealth is a non-negative supermartingale from 1, so by Ville's inequality its peak exceeds
    1 / delta with probability at most delta, and 1 / peak is a p-value. Each stake depends on earlier samples
    only; its size follows their variance, aimed at level `delta`, and so the test gains from few
    disagreements, which Hoeffding's bound cannot (Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", 2024).

    Args:
        losses: (N,) in [-1, 1], independent and in an order that does not depend on them: 1 where all is
            lost, below 0 where something is gained.
        drop: The loss that the hypothesis claims.
        delta: The level that stakes are chosen for.
        binary: Losses can only be 0 or 1. Then it is the binomial test, as in Clopper and Pearson's interval.
    """
    if not len(losses):
        return 1.0
    if binary:
        from scipy.special import bdtr  # which takes a while to import

        return float(bdtr(np.sum(losses), len(losses), drop))
    count = np.arange(1, len(losses) + 1)
    means = np.cumsum(losses) / (count + 1)
    variances = (0.25 + np.cumsum((losses - means) ** 2)) / (count + 1)
    earlier = np.concatenate([[0.25], variances[:-1]])
    stakes = np.sqrt(2 * np.log(1 / delta) / (len(losses) * earlier))
    stakes = np.minimum(stakes, LARGEST_BET / (1 - drop))
    wealth = np.cumsum(np.log1p(stakes * (drop - losses)))
    return float(min(1.0, np.exp(-wealth.max())))


def upper_bound(losses: NDArray[np.float64], delta: float, *, binary: bool = False) -> float:
    """Return the smallest loss that `p_value` shows the expected one to be below, with confidence 1 - delta.

    It is rounded up; 1 where nothing smaller can be shown.

    Example:
        >>> upper_bound(np.zeros(100), 0.05), upper_bound(np.zeros(10_000), 0.05)
        (0.0392, 0.0005)
    """
    grid = np.unique(np.concatenate([np.arange(1, 10**3) / 10**DIGITS, np.arange(100, 1000) / 1000, [1.0]]))
    shown = bisect_left(
        grid[:-1], True, key=lambda drop: p_value(losses, drop, delta, binary=binary) <= delta
    )
    return float(grid[shown])


def least_samples(drop: float, delta: float, *, binary: bool = False) -> int:
    """Return how many samples show a loss below `drop` at least: where none of them is lost.

    Example:
        >>> least_samples(0.1, 0.1), least_samples(0.1, 0.1, binary=True)
        (29, 22)
    """
    most = 1
    while p_value(np.zeros(most), drop, delta, binary=binary) > delta:
        most *= 2
    return bisect_left(
        range(most + 1),
        True,
        key=lambda count: p_value(np.zeros(count), drop, delta, binary=binary) <= delta,
    )
