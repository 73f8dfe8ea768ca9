"""Thresholds that keep a promised accuracy on new samples, whatever their distribution."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.bounds import least_samples, p_value
from mrl_experiments.adaptive.classification.cascade import Cascade, full_cascade
from mrl_experiments.adaptive.classification.exits import Exits, check_labels
from mrl_experiments.adaptive.classification.frontier import Frontier
from mrl_experiments.errors import UserError
from mrl_experiments.results import Setting

PATH_STEPS = 10


@dataclass(frozen=True)
class RiskControl:
    """A cascade that loses at most `drop` of the full dim's accuracy on new samples, with confidence.

    The promise holds with probability 1 - delta over the samples it is fitted to.

    Learn-then-Test (Angelopoulos et al., "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
    Control", arXiv 2110.01052) with fixed-sequence testing. One half of the samples learns a path of cascades
    from costly to cheap. The other half tests along it, each at level delta, whether the loss is `drop` or
    more; the last cascade before the first that fails is returned. The full dim loses nothing, so where
    nothing can be shown, as with one sample, the cascade always goes on. The path does not depend on the
    tested half and testing stops at the first failure, so the chance to return a cascade that breaks the
    promise is at most delta. This assumes independent samples of one distribution and nothing of the
    classifier or its calibration. It holds for one fit: of several drops tried on the same samples, each
    alone keeps its promise.
    """

    drop: float = 0.01
    delta: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("drop", self.drop), ("delta", self.delta)):
            if not 0 < value < 1:
                raise UserError(f"risk_control: {name}={value}", expected="a fraction between 0 and 1")

    @property
    def setting(self) -> Setting:
        """The policy and its promise."""
        return Setting(policy="risk_control", drop=self.drop, delta=self.delta)

    def fit(self, exits: Exits, labels: NDArray[np.int64]) -> Cascade:
        """Return the cheapest cascade whose promise could be shown, over all dims."""
        return sweep(exits, labels, drops=[self.drop], delta=self.delta, seed=self.seed)[self.setting]


def sweep(
    exits: Exits, labels: NDArray[np.int64], *, drops: Sequence[float], delta: float, seed: int = 0
) -> dict[Setting, Cascade]:
    """Return the cascade for each promised drop, by its setting: one learned frontier for all."""
    promises = [RiskControl(drop, delta, seed) for drop in drops]
    labels = check_labels(labels, len(exits))
    order = np.random.default_rng(seed).permutation(len(exits))
    learn, test = np.array_split(order, 2)
    learned = Frontier(exits.take(learn), labels[learn])
    held_out, correct = exits.take(test), exits.correct(labels)[:, test]
    return {
        promise.setting: _last_shown(_path(learned, promise.drop), held_out, correct, promise)
        for promise in promises
    }


def _path(learned: Frontier, drop: float) -> Iterator[Cascade]:
    """Yield cascades from costly to cheap.

    They lead from the full dim to the cheapest cascade without a loss on the learning half, and on to the
    one that loses `drop` there.
    """
    lossless = learned.cheapest(0.0)
    for share in np.linspace(0, 1, PATH_STEPS, endpoint=False):
        yield learned.cascade(learned.between(learned.full, lossless, share))
    for share in np.linspace(0, 1, PATH_STEPS):
        yield learned.cascade(learned.cheapest(share * drop))


def _last_shown(
    path: Iterable[Cascade], held_out: Exits, correct: NDArray[np.bool_], promise: RiskControl
) -> Cascade:
    chosen = full_cascade(held_out.dims)
    for cascade in path:
        answered = correct[cascade.stop(held_out), np.arange(len(held_out))]
        losses = correct[-1].astype(np.float64) - answered
        if p_value(losses, promise.drop, promise.delta) > promise.delta:
            break
        chosen = cascade
    return chosen


def samples_needed(drop: float, delta: float) -> int:
    """Return how many labelled samples a promise takes at least: where no tested answer is lost.

    Example:
        >>> samples_needed(0.1, 0.1)
        58
    """
    return 2 * least_samples(drop, delta)  # the other half learns
