"""The source files of the running Python's standard library, 12 MB that every machine has (PSF licence)."""

import hashlib
import os
import platform
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrl_experiments.data.splits import divided
from mrl_experiments.data.text.text_files import TextFiles, held_out
from mrl_experiments.errors import UserError

# Not of the library, or its tests, which some distributions leave out.
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class PythonStdlib(TextFiles):
    """Modules and packages, split by top-level name so that no file of a package is on the other side.

    `_name` and `name` (`_pydecimal`, `pydecimal`) count as one.

    Raises:
        UserError: If a Python comes without its sources.
    """

    def __init__(self, name: str, val_share: float, seed: int) -> None:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = sorted(_sources(root))
        if not files:
            raise UserError(
                f"{root} holds no Python sources",
                expected="the standard library of the running Python as .py files",
                remedy="use a Python that is not frozen or zipped, or data=text_folder data.root=<folder>",
            )
        self.val_share, self.seed = val_share, seed
        sizes: dict[str, int] = defaultdict(int)
        for path in files:
            sizes[_module(root, path)] += path.stat().st_size
        val = held_out(sizes, val_share, seed)
        super().__init__(name, root, divided(files, lambda path: _module(root, path) in val))

    def identity(self) -> dict[str, Any]:
        """Return what determines the text: the content of all files. Where they lie does not matter."""
        digest = hashlib.sha256()
        for split, path in self.paths():
            digest.update(f"{split} {self.shown(path)} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return {"python": platform.python_version(), "files": digest.hexdigest()}

    def manifest(self, split: str) -> dict[str, Any]:
        """Return the documents, the Python and the licence."""
        return {**super().manifest(split), "python": platform.python_version(), "licence": "PSF-2.0"}


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - EXCLUDED
        yield from (Path(folder, file) for file in files if file.endswith(".py"))


def _module(root: Path, path: Path) -> str:
    """Return the top-level name that a file belongs to."""
    top = path.relative_to(root).parts[0]
    return top.removesuffix(".py").lstrip("_") or top
