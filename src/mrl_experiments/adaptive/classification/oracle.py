"""The accuracy and cost of a perfect choice of dim for each sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.exits import Exits


@dataclass(frozen=True)
class Oracle:
    """Which dim is the first to be right, as shares of all N samples.

    Source: Appendix J, Tables 22 and 23 of the paper.

    Attributes:
        first_correct: {dim: share first right at this dim}.
        always_wrong: Share right at no dim.
        expected_dim: Mean of the first right dim; a sample that is always wrong costs the full width.
    """

    first_correct: dict[int, float]
    always_wrong: float
    expected_dim: float

    @property
    def top1(self) -> float:
        """The accuracy that no choice of dims can exceed."""
        return 1 - self.always_wrong


def oracle(exits: Exits, labels: NDArray[np.int64]) -> Oracle:
    """Compare the predictions at all dims with `labels` (N,)."""
    correct = exits.correct(labels)
    wrong = ~correct.any(axis=0)
    first = np.where(wrong, len(exits.dims), correct.argmax(axis=0))
    shares = np.bincount(first, minlength=len(exits.dims) + 1) / len(exits)
    costs = np.asarray([*exits.dims, exits.dims[-1]])
    first_correct = dict(zip(exits.dims, shares[:-1].tolist(), strict=True))
    return Oracle(first_correct, float(shares[-1]), float(shares @ costs))
