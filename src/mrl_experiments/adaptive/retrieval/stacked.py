"""Rows of several files as one array, of which a search reads a few and a pass reads all in order."""

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import reading


class Part:
    """A .npy file of rows, memory-mapped.

    Attributes:
        rows: (n, ...) the map, without readahead: rows that a search needs lie far apart.
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        with reading(path, "a .npy file", "build the index again", "cannot be read"):
            self.rows: Any = np.load(path, mmap_mode="r")
        self.path, self._file = path, path.open("rb")  # open, so that a writer may take its name away
        self._start = self.rows.offset
        with suppress(AttributeError, OSError):
            self.rows._mmap.madvise(mmap.MADV_RANDOM)

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Return rows first to last - 1, read in one piece."""
        row = self.rows.itemsize * int(np.prod(self.rows.shape[1:]))
        content = os.pread(self._file.fileno(), (last - first) * row, self._start + first * row)
        while len(content) < (last - first) * row:  # the system reads 2 GB at most at a time
            more = os.pread(
                self._file.fileno(),
                (last - first) * row - len(content),
                self._start + first * row + len(content),
            )
            if not more:
                raise UserError(f"{self.path} has been cut", remedy="build the index again")
            content += more
        return np.frombuffer(content, self.rows.dtype).reshape(last - first, *self.rows.shape[1:])

    def announce(self, places: NDArray[np.int64]) -> None:
        """Announce which rows (ascending) are read next, so that the system fetches them side by side."""
        if not hasattr(os, "posix_fadvise"):
            return
        row = self.rows.itemsize * int(np.prod(self.rows.shape[1:]))
        number = self._file.fileno()
        for place in places.tolist():
            os.posix_fadvise(number, self._start + place * row, row, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file; maps that are in use stay."""
        self._file.close()


class Stacked:
    """The rows (N, ...) of several parts as one array that is read by slices, or by rows.

    Args:
        parts: Of like shape.
        dtype: What is returned, whatever is stored.
    """

    def __init__(self, parts: Sequence[Part], dtype: Any) -> None:
        self.parts, self.dtype = tuple(parts), np.dtype(dtype)
        self.ends = np.cumsum([len(part.rows) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].rows.shape[1:])

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *others = key if isinstance(key, tuple) else (key,)
        found = self._slice(rows) if isinstance(rows, slice) else self._rows(np.asarray(rows))
        return found[(slice(None), *others)] if others else found

    def local(self, number: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return places of all rows as those in a part; -1 for those elsewhere."""
        start = int(self.ends[number - 1]) if number else 0
        return np.where((places >= start) & (places < self.ends[number]), places - start, -1)

    def _slice(self, rows: slice) -> NDArray[Any]:
        first, last, step = rows.indices(len(self))
        if step != 1:
            return self._rows(np.arange(first, last, step))
        found = np.empty((max(0, last - first), *self.shape[1:]), self.dtype)
        start = 0
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            low, high = max(first, start), min(last, end)
            if low < high:
                found[low - first : high - first] = part.read(low - start, high - start)
            start = end
        return found

    def _rows(self, places: NDArray[Any]) -> NDArray[Any]:
        if places.dtype == bool:
            places = np.flatnonzero(places)
        flat = places.ravel()
        found = np.zeros((len(flat), *self.shape[1:]), self.dtype)
        for number, part in enumerate(self.parts):
            local = self.local(number, flat)
            here = np.flatnonzero(local >= 0)
            order = here[np.argsort(local[here])]  # the disk is read forwards
            found[order] = part.rows[local[order]]
        return found.reshape(*places.shape, *self.shape[1:])
