"""The k smallest scores of every query, kept by one compiled loop; needs numba.

The result is that of FAISS's heaps. A block of scores that holds nothing new costs one comparison for many
scores at once, and what is new is appended: only a full row is cut to its k smallest.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

WORD = 8  # bytes of which one comparison tells whether any is set
LEAST_ROOM = 32  # for new scores, so that few neighbours do not mean a cut each time
BISECTIONS = 12  # after which equal scores are likely
OPTIONS: Any = {"nogil": True, "cache": True, "error_model": "numpy"}
HIGHEST = np.finfo(np.float32).max  # what a row has where it holds less than k, as in a heap


class Reservoirs:
    """For every query the k smallest scores so far, and half as many again since the last cut.

    Args:
        queries: Q.
        database: N, from which positions come.
        k: How many are kept.
    """

    def __init__(self, queries: int, database: int, k: int) -> None:
        self.k, room = k, k + max(k // 2, LEAST_ROOM)  # with int32 as large as a heap with int64
        self.values = np.empty((queries, room), np.float32)
        short = database <= np.iinfo(np.int32).max  # half the memory
        self.positions = np.empty((queries, room), np.int32 if short else np.int64)
        self.limits = np.full(queries, HIGHEST, np.float32)
        self.held = np.zeros(queries, np.int64)

    def add(self, scores: Tensor, factors: Tensor | None, position: int, row: int) -> None:
        """Take scores (q, n), times factors (n,), of the queries from `row` and the positions on."""
        times = np.ones(scores.shape[1], np.float32) if factors is None else factors.numpy()
        part = slice(row, row + len(scores))
        state = (self.limits[part], self.held[part], self.values[part], self.positions[part])
        _add(scores.numpy(), times, position, self.k, *state)

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return values and positions (Q, k), smallest first; equals in any order."""
        _finish(self.k, self.held, self.values, self.positions)
        values, positions = self.values[:, : self.k], self.positions[:, : self.k]
        order = np.argsort(values, axis=1)
        found = np.take_along_axis(positions, order, axis=1).astype(np.int64)
        return np.take_along_axis(values, order, axis=1), found


@numba.njit(**OPTIONS)
def _add(scores, factors, position, k, limits, held, values, positions):  # type: ignore[no-untyped-def]
    width, room = len(factors), values.shape[1]
    new = np.zeros(-(-width // WORD) * WORD, np.uint8)
    words = new.view(np.uint64)
    for row in range(len(scores)):
        limit, count = limits[row], held[row]
        for column in range(width):  # without branches, so that the compiler makes vectors of it
            new[column] = scores[row, column] * factors[column] < limit
        for word in range(len(words)):
            if not words[word]:
                continue
            for column in range(word * WORD, word * WORD + WORD):
                if not new[column]:
                    continue
                if count == room:
                    limit, count = _cut(values[row], positions[row], k)
                values[row, count] = scores[row, column] * factors[column]
                positions[row, count] = position + column
                count += 1
        limits[row], held[row] = limit, count


@numba.njit(**OPTIONS)
def _cut(values, positions, k):  # type: ignore[no-untyped-def]
    """Keep the k smallest and few others, in their order; return what later ones must be smaller than."""
    low, high, most, two = values[0], values[0], k + k // 4, np.float32(2)
    for value in values:
        low, high = min(low, value), max(high, value)
    for _ in range(BISECTIONS):
        middle, below = low / two + high / two, np.int32(0)
        for column in range(len(values)):
            below += np.int32(values[column] < middle)
        if k <= below <= most:
            return middle, _keep(values, positions, middle, np.int64(0))
        low, high = (middle, high) if below < k else (low, middle)
    return _cut_to(values, positions, k), k


@numba.njit(**OPTIONS)
def _cut_to(values, positions, k):  # type: ignore[no-untyped-def]
    """Keep the k smallest, of equals the earlier; return the largest of them."""
    largest, smaller = _in_order(values, k), 0
    for value in values:
        smaller += value < largest
    _keep(values, positions, largest, k - smaller)
    return largest


@numba.njit(**OPTIONS)
def _in_order(values, k):  # type: ignore[no-untyped-def]
    """Return the k-th smallest of values (n,), found by halving the range of their bits as whole numbers.

    It is compiled in a fifth of the time of np.partition.
    """
    bits = values.view(np.int32)
    low, high = np.int64(-(2**31)), np.int64(2**31 - 1)
    while low < high:
        middle, below = np.int32((low + high) >> 1), np.int32(0)
        for column in range(len(bits)):
            below += np.int32(_rank(bits[column]) <= middle)
        low, high = (low, np.int64(middle)) if below >= k else (middle + 1, high)
    for column in range(len(bits)):
        if _rank(bits[column]) == low:
            break
    return values[column]


@numba.njit(**OPTIONS)
def _rank(bits):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as a whole number of the same order."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(2**31 - 1))


@numba.njit(**OPTIONS)
def _keep(values, positions, limit, equals):  # type: ignore[no-untyped-def]
    """Keep what is smaller than a limit and the first that equal it; return how many."""
    count = 0
    for column in range(len(values)):
        value = values[column]
        values[count], positions[count] = value, positions[column]
        count += value < limit
        if value == limit and equals > 0:
            equals -= 1
            count += 1
    return count


@numba.njit(**OPTIONS)
def _finish(k, held, values, positions):  # type: ignore[no-untyped-def]
    """Cut all rows to k, and fill those that hold less."""
    for row in range(len(held)):
        if held[row] > k:
            _cut_to(values[row, : held[row]], positions[row, : held[row]], k)
        else:
            values[row, held[row] : k] = HIGHEST
            positions[row, held[row] : k] = -1
