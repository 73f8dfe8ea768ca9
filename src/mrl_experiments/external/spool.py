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
        self.source = source
        self._blocks: list[NDArray[Any]] = []
        self._bytes, self.rows = 0, 0
        self._file: Any = None

    def add(self, block: NDArray[Any]) -> None:
        """Add a block; empty ones only where there are no others.

        Raises:
            UserError: If its width is another, or the disk is full.
        """
        if self._blocks and not len(self._blocks[0]):
            self._blocks = []  # Spark writes empty parts, too
        if self._blocks and not len(block):
            return
        if self._blocks and block.shape[1] != self._blocks[0].shape[1]:
            raise UserError(f"{self.source}: its parts differ in width", expected="files of one table")
        self._blocks.append(block)
        self.rows, self._bytes = self.rows + len(block), self._bytes + block.nbytes
        if len(self._blocks) > 1 and (self._file is not None or self._bytes > LARGE):
            self._write()

    def _write(self) -> None:
        folder = Path(tempfile.gettempdir())
        with explain_os_errors(f"{folder} (TMPDIR)"):
            first = self._blocks[0]
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                blocks = self._blocks
            else:
                blocks = self._blocks[1:]
            require_space(folder, sum(block.nbytes for block in blocks))
            for block in blocks:
                np.ascontiguousarray(block, first.dtype).tofile(self._file)
            self._blocks = [first[:1].copy()]

    def result(self) -> NDArray[Any]:
        """Return all of them (N, D)."""
        if not self._blocks:
            return np.empty((0, 0), np.float32)
        if self._file is None:
            return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        with explain_os_errors(f"{tempfile.gettempdir()} (TMPDIR)"):
            self._file.flush()
        first = self._blocks[0]
        return np.memmap(self._file, first.dtype, mode="r", shape=(self.rows, first.shape[1]))
