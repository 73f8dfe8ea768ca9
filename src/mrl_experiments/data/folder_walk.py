"""The files below a folder of the user's, whatever else lies there."""

import os
from collections.abc import Iterator
from pathlib import Path

from mrl_experiments.data.reading import Reading
from mrl_experiments.errors import UserError


def files_below(folder: Path, reading: Reading) -> Iterator[Path]:
    """Yield all regular files below a folder, sorted in each; links are followed, each folder once.

    What is hidden, leads nowhere or in a circle, cannot be listed, or is no regular file (a pipe would be
    waited for without end) is left out and noted in `reading`. Raises UserError for a folder that cannot be
    listed at all.
    """
    seen: set[tuple[int, int]] = set()

    def walk(current: Path) -> Iterator[Path]:
        try:
            status = current.stat()
            names = sorted(os.listdir(current))
        except OSError as error:
            if current == folder:
                raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
            reading.skipped["folders that cannot be listed"].append(below(current))
            return
        if (status.st_dev, status.st_ino) in seen:
            reading.skipped["links to folders that are read already"].append(below(current))
            return
        seen.add((status.st_dev, status.st_ino))
        paths = [current / name for name in names]
        # Folders themselves come before links to them, so that each is read under its own name.
        for path in sorted(paths, key=lambda path: path.is_symlink()):
            if path.name.startswith(".") or path.name == "__MACOSX":
                reading.skipped["hidden files and folders"].append(below(path))
            elif os.path.isdir(path):
                yield from walk(path)
            elif os.path.isfile(path):
                yield path
            else:
                kind = "links that lead nowhere" if path.is_symlink() else "pipes, sockets and devices"
                reading.skipped[kind].append(below(path))

    def below(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    yield from walk(folder)
