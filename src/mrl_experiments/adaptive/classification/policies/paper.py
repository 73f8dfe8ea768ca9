"""The paper's policy: one threshold for each pair of neighbouring dims, chosen greedily."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.errors import UserError
from mrl_experiments.results import Setting


@dataclass(frozen=True)
class Paper:
    """For each pair (m_i, m_{i+1}) alone, the smallest threshold with the best accuracy of the pair.

    Source: Appendix D.1 of the paper and its published notebook on model cascades.

    Attributes:
        cap: The dim at which the cascade ends, the largest by default (the rows of Table 3).
        lowest: The smallest threshold of the grid. The official code begins at 0.1; the text says [0, 1].
        highest: The largest one.
        points: How many there are.
    """

    cap: int | None = None
    lowest: float = 0.1
    highest: float = 1.0
    points: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.highest <= 1 or self.points < 1:
            raise UserError(
                f"paper: {self.points} thresholds from {self.lowest} to {self.highest}",
                expected="at least one, within [0, 1]",
            )

    @property
    def setting(self) -> Setting:
        """The policy and its cap."""
        return Setting({"policy": "paper"} if self.cap is None else {"policy": "paper", "cap": self.cap})

    def fit(self, exits: Exits, labels: NDArray[np.int64]) -> Cascade:
        """Return the cascade up to `cap`.

        Raises:
            UserError: If the cap is none of the dims.
        """
        grid = np.linspace(self.lowest, self.highest, self.points)
        correct = exits.correct(labels)
        thresholds = tuple(
            _pair_threshold(grid, exits.confidence[i], correct[i], correct[i + 1])
            for i in range(len(exits.dims) - 1)
        )
        cascade = Cascade(exits.dims, thresholds)
        return cascade if self.cap is None else cascade.capped(self.cap)


def sweep(exits: Exits, labels: NDArray[np.int64]) -> dict[Setting, Cascade]:
    """Return the cascade for each cap from the second dim on, by its setting (the rows of Table 3)."""
    uncapped = Paper().fit(exits, labels)
    return {Paper(cap).setting: uncapped.capped(cap) for cap in exits.dims[1:]}


def _pair_threshold(
    grid: NDArray[np.float64],
    confidence: NDArray[np.float32],
    small: NDArray[np.bool_],
    large: NDArray[np.bool_],
) -> float:
    """Return the smallest threshold of `grid` that makes most answers of the pair right.

    confidence (N,) of the small dim; small, large (N,): whether each is right.
    """
    # A sample goes on at every threshold from its confidence on, and then counts large - small more hits.
    first = np.searchsorted(grid, confidence, side="left")
    gain = large.astype(np.int64) - small
    hits = np.cumsum(np.bincount(first, weights=gain, minlength=len(grid) + 1)[: len(grid)])
    return float(grid[int(np.argmax(hits))])
