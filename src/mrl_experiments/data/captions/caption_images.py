"""The image files that a table of captions names."""

import functools
import os
import unicodedata
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

from mrl_experiments.data.images.image_files import walk
from mrl_experiments.data.reading import Reading, Tally, listed
from mrl_experiments.errors import UserError

_BACKSLASH = "\\"


class CaptionImages:
    """Files below a folder, found by paths as tables have them.

    A path may differ from the file's in case, Unicode form, percent-encoding or backslashes, as tables from
    other systems do; this is noted in `reading`. Paths that leave the folder are kept to be refused at once.
    """

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.folder, self.reading = folder, reading
        self._leaving: list[str] = []
        self._found: dict[str, Path | None] = {}

    def find(self, name: str, place: str) -> Path | None:
        """Return the file of a path, or None.

        Args:
            name: The path as the table has it.
            place: Where it stands, for messages.
        """
        if not name:
            return None
        if f"{os.path.normpath(name.replace(_BACKSLASH, '/'))}/".startswith("../"):
            self._leaving.append(f"{place} ({name})")
            return None
        if name not in self._found:
            self._found[name] = self._existing(name)
        path = self._found[name]
        if path is not None and not os.path.isabs(name) and path != self.folder / os.path.normpath(name):
            kind = "image paths that differ from the file's in case, encoding or separators"
            self.reading.converted.add(kind, f"{place} ({name})")
        return path

    def exists(self, name: str) -> bool:
        """Return whether a text is exactly the path of a file."""
        return bool(name) and os.path.isfile(self.folder / name)

    def refuse_leaving(self, table: Path) -> None:
        """Refuse a table with paths that leave its folder.

        Raises:
            UserError: If some that were looked for do.
        """
        if self._leaving:
            raise UserError(
                f"{table}: {len(self._leaving)} image paths leave its folder: {listed(self._leaving)}",
                expected="paths of files below the folder of the table",
                remedy="move the table to a folder above the images, or write absolute paths",
            )

    @functools.cached_property
    def all(self) -> list[Path]:
        """All files below the folder that are not hidden."""
        return walk(self.folder, self.folder, Tally(), endings=None)

    def _existing(self, name: str) -> Path | None:
        path = self.folder / os.path.normpath(name)
        if os.path.isfile(path):
            return path
        alike = self._by_key.get(_key(name), []) or self._by_key.get(_key(unquote(name)), [])
        return alike[0] if len(alike) == 1 else None

    @functools.cached_property
    def _by_key(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in self.all:
            found[_key(path.relative_to(self.folder).as_posix())].append(path)
        return found


def _key(name: str) -> str:
    """Return what is common to the ways in which systems write a path."""
    plain = os.path.normpath(name.replace(_BACKSLASH, "/"))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", plain).casefold())
