"""A figure with its interval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import norm, t

TAIL = 0.975  # of an interval of 95 %


@dataclass(frozen=True)
class Interval:
    """A 95 % interval. over: what it is taken over, such as "3 seeds". seeds: how many of them."""

    low: float
    high: float
    over: str
    seeds: int = 1


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval where one can be had, and the place it was found at, such as "512 dims"."""

    value: float
    interval: Interval | None
    where: str


def least(found: Iterable[Estimate | None]) -> Estimate | None:
    """Return the smallest of those there are, or None."""
    return min((one for one in found if one), key=lambda estimate: estimate.value, default=None)


def most(found: Iterable[Estimate | None]) -> Estimate | None:
    """Return the largest of those there are, or None."""
    return max((one for one in found if one), key=lambda estimate: estimate.value, default=None)


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Return Student's interval of the mean of one value a seed, or None for a single seed."""
    if len(values) < 2:
        return None
    half = float(t.ppf(TAIL, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half, f"{len(values)} seeds", len(values))


def over_samples(parts: Sequence[tuple[float, float, int]]) -> Interval:
    """Return the interval of the mean of differences a - b of shares (a, b, samples), for one seed.

    Normal approximation of two independent binomials, one success and one failure added to each (Agresti and
    Caffo, 2000). It is too wide rather than too narrow: both shares are of the same samples, and the mean of
    values inside [0, 1], such as mAP, varies less than a share.
    """
    adjusted = [((a * n + 1) / (n + 2), (b * n + 1) / (n + 2), n + 2) for a, b, n in parts]
    variance = sum((a * (1 - a) + b * (1 - b)) / n for a, b, n in adjusted) / len(parts) ** 2
    middle = fmean(a - b for a, b, _ in adjusted)
    half = float(norm.ppf(TAIL)) * sqrt(variance)
    return Interval(middle - half, middle + half, f"{sum(n for _, _, n in parts):,} samples, binomial")


def over_splits(total: float, mean: float, deviation: float) -> Interval:
    """Return the interval of total / x for one run whose x has this deviation over random splits."""
    half = float(norm.ppf(TAIL)) * deviation
    high = total / (mean - half) if mean > half else float("inf")
    return Interval(total / (mean + half), high, "random splits of 1 run")
