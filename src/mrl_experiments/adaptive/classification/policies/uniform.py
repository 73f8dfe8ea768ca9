"""One stated threshold for all dims, fitted to nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.results import Setting


@dataclass(frozen=True)
class Uniform:
    """Go on while the confidence is at most `threshold`: 0 stays at the first dim, 1 ends at the last."""

    threshold: float

    @property
    def setting(self) -> Setting:
        """The policy and its threshold."""
        return Setting(policy="uniform", threshold=self.threshold)

    def cascade(self, dims: Sequence[int]) -> Cascade:
        """Return the cascade over `dims`.

        Raises:
            UserError: For a threshold that is not within [0, 1].
        """
        return Cascade(tuple(dims), (self.threshold,) * (len(dims) - 1))

    def fit(self, exits: Exits, labels: NDArray[np.int64]) -> Cascade:
        """Return the cascade over all dims of `exits`."""
        return self.cascade(exits.dims)


def sweep(exits: Exits, labels: NDArray[np.int64], *, thresholds: Sequence[float]) -> dict[Setting, Cascade]:
    """Return the cascade for each threshold, by its setting."""
    policies = [Uniform(threshold) for threshold in thresholds]
    return {policy.setting: policy.fit(exits, labels) for policy in policies}
