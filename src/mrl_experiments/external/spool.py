"""Matrices that arrive in blocks and may be larger than memory."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors, require_space

LARGE = 1 << 27  # bytes; what is larger goes to a file without a name, as long as it is used


class Spool:
    """Collect blocks (n, D) of one width; in memory while they are few, then in a temporary file.

    Args:
        source: Where they come from, for messages.

    Attributes:
        rows: How many there are so far.
    """

    def __init__(self, source: Path) -> None:
        self.source, self.rows = source, 0
        self._first: NDArray[Any] = np.empty((0, 0), np.float32)
        self._file: Any = None  # of all blocks, once there are two

    def add(self, block: NDArray[Any]) -> None:
        """Add a block; empty ones, as Spark writes them too, only where there are no others.

        Raises:
            UserError: If its width is another, or the disk is full.
        """
        if not self.rows:
            self._first = block
        elif len(block):
            if block.shape[1] != self._first.shape[1]:
                raise UserError(f"{self.source}: its parts differ in width", expected="files of one table")
            if self._file is None:
                self._file = tempfile.SpooledTemporaryFile(LARGE)  # noqa: SIM115
                self._write(self._first)
            self._write(block)
        self.rows += len(block)

    def _write(self, block: NDArray[Any]) -> None:
        folder = Path(tempfile.gettempdir())
        with explain_os_errors(f"{folder} (TMPDIR)"):
            if self._file.tell() + block.nbytes > LARGE:
                require_space(folder, block.nbytes)
            self._file.write(np.ascontiguousarray(block, self._first.dtype))

    def result(self) -> NDArray[Any]:
        """Return all of them (N, D)."""
        if self._file is None:
            return self._first
        size, shape, dtype = self._file.tell(), (self.rows, self._first.shape[1]), self._first.dtype
        with explain_os_errors(f"{tempfile.gettempdir()} (TMPDIR)"):
            self._file.seek(0)
        if size > LARGE:
            return np.memmap(self._file, dtype, mode="r", shape=shape)
        return np.frombuffer(self._file.read(), dtype).reshape(shape)
