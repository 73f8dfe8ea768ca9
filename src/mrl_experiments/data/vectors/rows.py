"""Rows of vectors that lie in files, an account of them, and their split by their own content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.reading import Tally
from mrl_experiments.errors import UserError
from mrl_experiments.search.same_rows import row_keys

BLOCK = 8192  # rows read at once
LEAST = 8  # rows to train on, and to validate on
UNIT = 1e-2  # how far from 1 the norm of a normalized vector may be: float16 and bfloat16 round

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix (N, D) of numbers, perhaps a memory map, read as float32 when asked for.

    Attributes:
        matrix: (N, D) of any real type.
        numbers: (n,) the rows of it that are meant.
        keys: (n,) a hash of the content of each: copies share one.
    """

    matrix: NDArray[Any]
    numbers: Numbers
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        return len(self), self.matrix.shape[1]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        return np.asarray(self.matrix[self.numbers[rows]], np.float32)

    def take(self, which: NDArray[Any]) -> "Rows":
        """Return some of the rows, by their places or a mask."""
        return Rows(self.matrix, self.numbers[which], self.keys[which])

    def distinct(self) -> "Rows":
        """Return the first of all rows of one content."""
        return self.take(np.sort(np.unique(self.keys, return_index=True)[1]))


def read_rows(matrix: NDArray[Any], path: Path) -> tuple[Rows, str]:
    """Return the rows that have a direction, and what was found in a line.

    Raises:
        UserError: If fewer than two do.
    """
    keys, norms = np.empty(len(matrix), np.uint64), np.empty(len(matrix))
    for start in range(0, len(matrix), BLOCK):
        part = slice(start, start + BLOCK)
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.asarray(matrix[part], np.float32)
            keys[part] = row_keys(block)
            norms[part] = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    left_out = Tally()
    left_out.add("hold NaN or infinite values", *np.flatnonzero(~np.isfinite(norms)))
    left_out.add("hold zeros only", *np.flatnonzero(norms == 0))
    numbers = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    rows = Rows(matrix, numbers, keys[numbers])
    said = [f"{path.name}: {len(matrix):,} vectors of {matrix.shape[1]} dims"]
    if left_out.total:
        said.append(f"left out: {left_out} (row)")
    if len(rows) < 2:
        raise UserError("; ".join(said), expected="at least 2 finite, non-zero vectors")
    if copies := len(rows) - len(np.unique(rows.keys)):
        said.append(f"{copies:,} are exact copies of others and stay with them in one split")
    low, high = norms[numbers].min(), norms[numbers].max()
    if max(abs(low - 1), abs(high - 1)) > UNIT:
        said.append(f"norms from {low:.3g} to {high:.3g}, which cosines do not see")
    return rows, "; ".join(said)


def is_held_out(keys: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Return which rows are for validation: as a hash of their content says, so that copies stay together."""
    mixed = (keys ^ (keys >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)  # the low bits are weak
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 < share


def check_parts(train: int, val: int, what: str) -> None:
    """Raise UserError where there are too few rows of one of both."""
    if train < LEAST or val < LEAST:
        raise UserError(
            f"{what}: {train:,} to train on and {val:,} to validate on",
            expected=f"at least {LEAST} of each, which are no copies of each other",
            remedy="hold out another share, data.share=0.3, or give more vectors",
        )
