"""Early exit: dim after dim of a nested representation until its classifier is confident enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.exits import Exits, check_nested
from mrl_experiments.errors import UserError
from mrl_experiments.results import Setting


@dataclass(frozen=True)
class Cascade:
    """Answer at the first dim whose confidence exceeds its threshold, at the last dim in any case.

    Source: adaptive classification, Section 4.2.1 and Appendix D of the paper.

    Attributes:
        dims: (L,) ascending.
        thresholds: L - 1 numbers in [0, 1]; 0 always stops, 1 never does.
    """

    dims: tuple[int, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        check_nested(self.dims, least=1)
        if len(self.thresholds) != len(self.dims) - 1 or not all(0 <= t <= 1 for t in self.thresholds):
            raise UserError(
                f"thresholds {list(self.thresholds)} for the dims {list(self.dims)}",
                expected=f"{len(self.dims) - 1} numbers from 0 to 1, one for each dim but the last",
            )

    def capped(self, cap: int) -> "Cascade":
        """Return the cascade that ends at `cap`, with the same thresholds below it."""
        if cap not in self.dims[1:]:
            raise UserError(f"a cascade cannot end at {cap}", expected=f"one of {list(self.dims[1:])}")
        last = self.dims.index(cap)
        return Cascade(self.dims[: last + 1], self.thresholds[:last])

    def pruned(self) -> "Cascade":
        """Return the same cascade without dims that never answer: they need not be computed."""
        thresholds = (*self.thresholds, 0.0)
        last = thresholds.index(0.0)
        kept = [i for i in range(last + 1) if thresholds[i] < 1]
        return Cascade(tuple(self.dims[i] for i in kept), tuple(thresholds[i] for i in kept[:-1]))

    def stop(self, exits: Exits) -> NDArray[np.int64]:
        """Return (N,): the position in `exits.dims` at which each sample is answered."""
        missing = sorted(set(self.dims) - set(exits.dims))
        if missing:
            raise UserError(
                f"no predictions at {missing} dims",
                expected="predictions at all dims that the thresholds were fitted for",
            )
        rows = [exits.dims.index(dim) for dim in self.dims]
        onward = np.ones(len(exits), bool)
        position = np.full(len(exits), rows[0])
        for row, following, threshold in zip(rows, rows[1:], self.thresholds, strict=False):
            onward &= exits.confidence[row] <= threshold
            position[onward] = following
        return position


def full_cascade(dims: Sequence[int]) -> Cascade:
    """Return the cascade that always goes on to the last dim."""
    return Cascade(tuple(dims), (1.0,) * (len(dims) - 1))


class Policy(Protocol):
    """Chooses the thresholds of a cascade on labelled samples."""

    @property
    def setting(self) -> Setting:
        """The policy and its options as result rows name them."""

    def fit(self, exits: Exits, labels: NDArray[np.int64]) -> Cascade:
        """Return a cascade over `exits.dims`, or over a beginning of them."""
