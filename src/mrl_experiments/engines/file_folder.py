"""Targets that are folders of files: filled in a hidden folder, which gets its name when it is whole."""

import os
import shutil
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mrl_experiments.engines.engine import Engine, Shape
from mrl_experiments.engines.source import Source
from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors, hidden_folder, replace_folder, require_space
from mrl_experiments.locks import acquire


class FileFolder(Engine):
    """A folder of files.

    Attributes:
        out: Where it is read.
        hidden: Where it is written.
        folder: The one of both that is written or read now.
    """

    files = True
    other = (
        "choose another: uri=<folder>; or move that one away; one that export.py wrote is replaced by "
        "overwrite=true"
    )

    def __init__(self, uri: str, collection: str) -> None:
        self.place = str(Path(uri).expanduser())
        self.out = self._target(Path(self.place))
        self.hidden = hidden_folder(self.out)
        self.folder = self.out

    def _target(self, path: Path) -> Path:
        """Return the folder that a link leads to, which is then replaced in its place."""
        try:
            return path.resolve() if path.is_symlink() and path.is_dir() else path
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise UserError(f"{path} cannot be followed: {error}", expected="a folder") from error

    @abstractmethod
    def stored_in(self, folder: Path) -> Any:
        """Return what a folder keeps of its shape; see `Engine.stored`."""

    def stored(self) -> Any:
        """Return what the folder keeps of its shape; see `Engine.stored`."""
        empty = self.out.is_dir() and not any(self.out.iterdir())
        return self.stored_in(self.out) if os.path.lexists(self.out) and not empty else None

    def lock(self) -> AbstractContextManager[Any]:
        """Hold the folder: one command at a time writes it."""
        return acquire(hidden_folder(self.out, "lock"), f"writes {self.out}")

    def create(self, source: Source, shape: Shape) -> None:
        """Make the hidden folder."""
        require_space(self.hidden, shape.rows * shape.width * (2 if shape.half else 4))
        self.folder = self.hidden
        with explain_os_errors(self.hidden):
            self.begin(source, shape)

    def begin(self, source: Source, shape: Shape) -> None:
        """Make the hidden folder anew."""
        shutil.rmtree(self.hidden, ignore_errors=True)
        self.hidden.mkdir(parents=True)

    def finish(self, shape: Shape) -> bool:
        """Give the folder its name."""
        if self.folder == self.out:
            return False
        replace_folder(self.out, self.hidden)
        self.folder, self._shape = self.out, shape
        return True

    def close(self) -> None:
        """Do nothing: no file is open."""
