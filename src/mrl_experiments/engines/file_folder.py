"""Targets that are folders of files: filled in a hidden folder, which gets its name when it is whole."""

import os
import shutil
from abc import abstractmethod
from pathlib import Path

from mrl_experiments.engines.engine import Engine, Shape
from mrl_experiments.engines.source import Source
from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors, require_space
from mrl_experiments.locks import acquire

OTHER = "choose another: uri=<folder>; or move that one away"


class FileFolder(Engine):
    """A folder of files.

    Attributes:
        out: Where it is read.
        hidden: Where it is written.
        folder: The one of both that is written or read now.
    """

    def __init__(self, uri: str, collection: str) -> None:
        self.place = str(Path(uri).expanduser())
        self.out = self._target(Path(self.place))
        self.hidden = self.out.with_name(f".{self.out.name[:200]}.part")
        self.folder = self.out
        self._shape: Shape | None = None

    def _target(self, path: Path) -> Path:
        """Return the folder that a link leads to, which is then replaced in its place."""
        try:
            return path.resolve() if path.is_symlink() and path.is_dir() else path
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise UserError(f"{path} cannot be followed: {error}", expected="a folder") from error

    @abstractmethod
    def stored(self, folder: Path) -> Shape:
        """Return what a folder says of itself.

        Raises:
            UserError: If it is not one of ours.
        """

    def shape(self) -> Shape | None:
        """Return what the folder holds; see `Engine.shape`."""
        if self._shape is None and os.path.lexists(self.out):
            empty = self.out.is_dir() and not any(self.out.iterdir())
            self._shape = None if empty else self.stored(self.out)
        return self._shape

    def load(self, source: Source, shape: Shape, *, overwrite: bool = False) -> bool:
        """Write a source; see `Engine.load`. What is replaced stays until the new folder is whole."""
        lock = self.out.parent / f".{self.out.name[:200]}.lock"
        with acquire(lock, f"writes {self.out}"), self.explained():
            there = self.shape()
            if there is not None and (different := shape.differing(there)):
                if not overwrite:
                    raise UserError(
                        f"{self.place} is there with {'; '.join(different)}",
                        expected="the same",
                        remedy="choose another: uri=<folder>; or replace it: overwrite=true",
                    )
                there = None
            if there is None:
                require_space(self.hidden, shape.rows * shape.width * (2 if shape.half else 4))
                self.folder = self.hidden
                with explain_os_errors(self.hidden):
                    self.begin(source, shape)
            wrote = self._write_missing(source, shape)
            return self.finish(shape) or wrote

    @abstractmethod
    def begin(self, source: Source, shape: Shape) -> None:
        """Make the hidden folder, or go on with one of the same shape."""

    def create(self, shape: Shape) -> None:
        """Make the hidden folder anew."""
        shutil.rmtree(self.hidden, ignore_errors=True)
        self.hidden.mkdir(parents=True)

    def finish(self, shape: Shape) -> bool:
        """Give the folder its name."""
        if self.folder == self.out:
            return False
        with explain_os_errors(self.out):
            old = self.hidden.with_name(f"{self.hidden.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if self.out.exists():
                self.out.rename(old)
            self.hidden.rename(self.out)
            shutil.rmtree(old, ignore_errors=True)
        self.folder, self._shape = self.out, shape
        return True

    def close(self) -> None:
        """Do nothing: no file is open."""
