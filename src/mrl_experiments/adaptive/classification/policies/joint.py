"""All thresholds chosen together: the cheapest cascade for a tolerated loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.adaptive.classification.frontier import Frontier
from mrl_experiments.errors import UserError
from mrl_experiments.results import Setting


@dataclass(frozen=True)
class Joint:
    """The cheapest cascade found that loses at most `drop` of the full dim's accuracy.

    The loss is that on the samples it was fitted to; `RiskControl` promises it for new ones.
    """

    drop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise UserError(f"joint: drop={self.drop}", expected="a fraction from 0 to below 1")

    @property
    def setting(self) -> Setting:
        """The policy and its tolerated drop."""
        return Setting(policy="joint", drop=self.drop)

    def fit(self, exits: Exits, labels: NDArray[np.int64]) -> Cascade:
        """Return the chosen cascade over all dims."""
        found = Frontier(exits, labels)
        return found.cascade(found.cheapest(self.drop))


def sweep(exits: Exits, labels: NDArray[np.int64], *, drops: Sequence[float]) -> dict[Setting, Cascade]:
    """Return the cascade for each tolerated drop, by its setting: one search for all."""
    found = Frontier(exits, labels)
    return {Joint(drop).setting: found.cascade(found.cheapest(drop)) for drop in drops}
