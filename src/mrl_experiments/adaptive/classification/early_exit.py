"""Logits dim by dim, computed only for the samples that have not exited yet."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.nesting import prefix

Inputs = Mapping[int, NDArray[np.float32]] | NDArray[np.float32]


class IncrementalLogits:
    """Logits of the samples `rows` at one dim after the other, ascending.

    A tied classifier multiplies the new features alone: the logits of a dim are those of the dim before
    plus the product of a block of columns.

    Raises:
        UserError: For features without classifiers.
    """

    def __init__(self, inputs: Inputs, heads: Heads | None, rows: NDArray[np.int64]) -> None:
        if heads is None and not isinstance(inputs, Mapping):
            raise UserError(
                "features without classifiers",
                expected="the heads beside the features, or logits {dim: (N, C)}",
                remedy="pass heads=embeddings.heads",
            )
        self.rows = rows
        self._heads, self._given = heads, inputs
        self._z = None if isinstance(inputs, Mapping) else inputs[rows]
        self._reached = 0
        self._logits: NDArray[np.float32] | None = None  # of a tied classifier, at the dim reached

    def at(self, dim: int) -> NDArray[np.float32]:
        """Return the logits (len(rows), C) at `dim`; the next call may overwrite them."""
        if self._z is None:
            return self._given[dim][self.rows]
        assert self._heads is not None
        if self._logits is None:
            logits = self._heads.logits(self._z, dim)
        else:
            weight, _ = self._heads.at(dim)
            logits = self._logits
            logits += prefix(self._z, dim)[:, self._reached :] @ weight[:, self._reached :].T
        if self._heads.tied:
            self._reached, self._logits = dim, logits
        return logits

    def keep(self, onward: NDArray[np.bool_]) -> None:
        """Go on with some of the samples only: `onward` (len(rows),)."""
        self.rows = self.rows[onward]
        if self._z is not None:
            self._z = self._z[onward]
        if self._logits is not None:
            self._logits = self._logits[onward]
