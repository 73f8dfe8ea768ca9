"""Search of whole threshold vectors for the frontier of accuracy against expected dim."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits

CANDIDATES = 256  # thresholds tried at each dim, at quantiles of its confidences
STEPS = 12  # a limit to the points sought for one drop
SWEEPS = 20  # a limit only: an ascent mostly ends after three

Cuts = NDArray[np.int64]  # (L - 1,): at each dim the samples in bins below its cut go on


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """A cascade with its accuracy and expected final dim on the samples it was fitted to."""

    cuts: Cuts
    accuracy: float
    expected_dim: float


class Frontier:
    """The cascades found so far that no other beats in both accuracy and expected dim, cheapest first.

    A point is sought where it is needed: between the two neighbours around the accuracy asked for, by
    maximising accuracy - price * expected dim at the price at which these two are worth the same. Coordinate
    ascent does so: given the other thresholds, the best one at a dim follows exactly from one cumulative sum
    over its confidences. Exact for two dims, otherwise a local optimum of all thresholds.
    """

    def __init__(self, exits: Exits, labels: NDArray[np.int64]) -> None:
        self.dims = exits.dims
        self._dims = np.asarray(exits.dims, np.float64)
        self._correct = exits.correct(labels)
        self._edges = [_edges(confidence) for confidence in exits.confidence[:-1]]
        self._bins = [
            np.searchsorted(edges, confidence)
            for edges, confidence in zip(self._edges, exits.confidence[:-1], strict=True)
        ]
        always = np.asarray([len(edges) for edges in self._edges])
        self.full = self._measure(always)
        self.points = _undominated([self._measure(np.zeros_like(always)), self.full])

    def cheapest(self, drop: float) -> FrontierPoint:
        """Return the cheapest point found that loses at most `drop` of the full dim's accuracy."""
        target = self.full.accuracy - drop - 1e-12
        for _ in range(STEPS):
            position = next(i for i, point in enumerate(self.points) if point.accuracy >= target)
            if position == 0 or not self._split(*self.points[position - 1 : position + 1]):
                break
        point = next(point for point in self.points if point.accuracy >= target)
        return self._tighten(point, target)

    def cascade(self, point: FrontierPoint) -> Cascade:
        """Return the thresholds of a point."""
        pairs = zip(self._edges, point.cuts, strict=True)
        return Cascade(self.dims, tuple(_threshold(edges, int(cut)) for edges, cut in pairs))

    def between(self, first: FrontierPoint, second: FrontierPoint, share: float) -> FrontierPoint:
        """Return the cascade whose shares of samples that go on lie between those of two others."""
        cuts = np.rint((1 - share) * first.cuts + share * second.cuts)
        return self._measure(cuts.astype(np.int64))

    def _split(self, low: FrontierPoint, high: FrontierPoint) -> bool:
        """Search a point between two neighbours; return True if there was one."""
        price = (high.accuracy - low.accuracy) / (high.expected_dim - low.expected_dim)
        values = self._correct - price * self._dims[:, None]
        before = self.points
        # Where no cascade lies above the line from low to high, one halfway may still be cheaper than high.
        halfway = self.between(low, high, 0.5)
        self.points = _undominated([*before, halfway, self._measure(self._ascend(values, halfway.cuts))])
        return self.points != before

    def _ascend(self, values: NDArray[np.float64], cuts: Cuts) -> Cuts:
        """Better one threshold after the other until none can be bettered alone."""
        for _ in range(SWEEPS):
            better = self._sweep(values, cuts)
            if np.array_equal(better, cuts):
                break
            cuts = better
        return cuts

    def _sweep(self, values: NDArray[np.float64], cuts: Cuts) -> Cuts:
        """Better each cut for the samples that reach its dim, from the largest dim down.

        Args:
            values: (L, N) what an answer at each dim is worth.
        """
        better, position, onward = cuts.copy(), self._stop(cuts), values[-1]
        for i in reversed(range(len(cuts))):
            total = _running(self._bins[i], (onward - values[i]) * (position >= i))
            best = int(np.argmax(total))
            if total[best] > total[better[i]] + 1e-9:
                better[i] = best
            onward = np.where(self._bins[i] < better[i], onward, values[i])
        return better

    def _tighten(self, point: FrontierPoint, target: float) -> FrontierPoint:
        """Choose each cut anew for the smallest expected dim with an accuracy of at least `target`."""
        for _ in range(SWEEPS):
            cuts, position = point.cuts.copy(), self._stop(point.cuts)
            hits, costs = self._correct[-1].astype(np.float64), np.full(len(position), self._dims[-1])
            accuracy = point.accuracy
            for i in reversed(range(len(cuts))):
                reached = position >= i
                gains = _running(self._bins[i], (hits - self._correct[i]) * reached) / len(position)
                prices = _running(self._bins[i], (costs - self._dims[i]) * reached)
                allowed = accuracy + gains - gains[cuts[i]] >= target
                best = int(np.argmin(np.where(allowed, prices, np.inf)))
                accuracy += gains[best] - gains[cuts[i]]
                cuts[i] = best
                onward = self._bins[i] < best
                hits = np.where(onward, hits, self._correct[i])
                costs = np.where(onward, costs, self._dims[i])
            better = self._measure(cuts)
            if better.expected_dim >= point.expected_dim:
                break
            point = better
        return point

    def _stop(self, cuts: Cuts) -> NDArray[np.int64]:
        onward = np.ones(self._correct.shape[1], bool)
        position = np.zeros(self._correct.shape[1], np.int64)
        for bins, cut in zip(self._bins, cuts, strict=True):
            onward &= bins < cut
            position += onward
        return position

    def _measure(self, cuts: Cuts) -> FrontierPoint:
        position = self._stop(cuts)
        right = self._correct[position, np.arange(len(position))]
        return FrontierPoint(cuts, float(right.mean()), float(self._dims[position].mean()))


def _running(bins: NDArray[np.int64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each cut from 0 on, the sum of `gains` over the samples in bins below it."""
    return np.concatenate([[0.0], np.cumsum(np.bincount(bins, weights=gains))])


def _edges(confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    quantiles = np.quantile(confidence, np.linspace(0, 1, CANDIDATES), method="inverted_cdf")
    return np.unique(quantiles)


def _threshold(edges: NDArray[np.float32], cut: int) -> float:
    """Return the threshold at which the samples of the first `cut` bins go on, and all where all did."""
    return float((0.0, *edges[:-1], 1.0)[cut])


def _undominated(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    best: list[FrontierPoint] = []
    for point in sorted(points, key=lambda p: (p.expected_dim, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best
