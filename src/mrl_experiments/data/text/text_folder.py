"""Text files in a folder of the user's."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

from mrl_experiments.data.given_root import given_root
from mrl_experiments.data.images.image_files import walk
from mrl_experiments.data.reading import Reading
from mrl_experiments.data.splits import BY_POSITION, SPLIT_OF, SPLITS, divided, held_out_names, is_by_name
from mrl_experiments.data.text.text_files import TextFiles, held_out
from mrl_experiments.errors import UserError

Files = dict[str, list[Path]]


class TextFolder(TextFiles):
    """All files below <root>/train and <root>/val, or below <root> with a seeded split.

    Folders may have other usual names (valid, dev, Train, ...), and so may files where all of the root's
    names say a split (train.txt, valid.txt); `test` beside `val` is a third split. Hidden files and folders
    are left out.

    Args:
        root: The folder, or a single file, of which the end is held out.
        pattern: Which files, as a glob below the root.
        val_share: About which share of the files is held out where no names say the splits.
        split: by_name: by the hash of a file's own name, so that adding or removing one moves no other;
            by_position: as runs of before have it.

    Raises:
        UserError: For a missing root, a split without files, or files that are all empty.
    """

    def __init__(
        self,
        name: str,
        root: str | None,
        pattern: str,
        val_share: float,
        seed: int,
        split: str = BY_POSITION,
    ) -> None:
        path = given_root(
            root,
            expected="a folder of text files, or one with train/ and val/",
            remedy=f"give it: python train.py data={name} data.root=/path/to/texts",
            or_file=True,
        )
        folder = path if path.is_dir() else path.parent
        self._inside: float | None = None  # the share of a single file that is held out
        reading = Reading()
        if not is_by_name(split):
            files = _by_position(folder, pattern, val_share, seed)
        else:
            found = _found(folder, pattern, reading) if path.is_dir() else [path]
            files = _stated(folder, found, reading) or self._drawn(folder, found, val_share, seed)
        super().__init__(name, folder, files)
        self.splits, self.reading = tuple(files), reading
        for line in reading.lines():
            print(f"{folder}: {line}", flush=True)

    def _drawn(self, folder: Path, found: list[Path], share: float, seed: int) -> Files:
        if len(found) == 1 and 0 < share < 1:
            self._inside = share
            print(f"{found[0]}: one file, of which the last {share:.0%} are val", flush=True)
            return {"train": found, "val": found}
        val = held_out_names([path.relative_to(folder).as_posix() for path in found], share, seed)
        return divided(found, lambda path: path.relative_to(folder).as_posix() in val)

    def part(self, split: str, text: str) -> str:
        """Return what of a file's text belongs to a split: of a single file its beginning, or its end."""
        if self._inside is None:
            return text
        border = round(len(text) * (1 - self._inside))
        for mark in ("\n", " "):  # an end of a line or word, where there is one in the held-out part
            if 0 < (found := text.find(mark, border)) < len(text) - 1:
                border = found + 1
                break
        return text[:border] if split == "train" else text[border:]

    def identity(self) -> dict[str, Any]:
        """Return what determines the text: names, sizes and times of change, and where a file is cut."""
        inside = {} if self._inside is None else {"val_share": self._inside}
        return {**super().identity(), **inside}


def _found(folder: Path, pattern: str, reading: Reading) -> list[Path]:
    """Return the files that match and hold something.

    Raises:
        UserError: If there is none.
    """
    wanted = PurePath(pattern).parts
    found = []
    for path in walk(folder, folder, reading.skipped, endings=None):
        name = path.relative_to(folder)
        below_split = name.parts[1:] if name.parts[0].casefold() in SPLIT_OF else ()
        if not (_matches(name.parts, wanted) or _matches(below_split, wanted)):
            reading.skipped.add(f"files that do not match {pattern}", name.as_posix())
        elif not path.stat().st_size:
            reading.skipped.add("empty files", name.as_posix())
        else:
            found.append(path)
    return sorted(found) or _none(folder, pattern)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, of which ** stands for any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _stated(folder: Path, found: Sequence[Path], reading: Reading) -> Files:
    """Return the split that names of folders, or of all files, in the root say; nothing where they do not."""
    files: Files = {split: [] for split in SPLITS}
    beside: list[Path] = []
    for path in found:
        top, *below = path.relative_to(folder).parts
        words = {top.casefold()} if below else {*re.split(r"[\W_]+", top.casefold())}
        splits = {SPLIT_OF[word] for word in words & SPLIT_OF.keys()}
        (files[splits.pop()] if len(splits) == 1 else beside).append(path)
    if files["test"] and not files["val"]:
        files["val"], files["test"] = files["test"], []
        reading.converted.add("splits named test, which are val", files["val"][0].name)
    names = [path.relative_to(folder) for paths in files.values() for path in paths]
    folders = {name.parts[0].casefold() for name in names if len(name.parts) > 1}
    others = [path.relative_to(folder).as_posix() for path in beside]
    # With others beside them, dev/ and training/ are more likely folders of a project than splits.
    clear = "train" in folders and bool(folders & {"val", "valid", "validation"})
    ambiguous = bool(others) if not folders else any("/" in other for other in others) and not clear
    if not (files["train"] and files["val"]) or ambiguous:
        return {}
    reading.skipped.add("files beside the splits", *others)
    return {split: paths for split, paths in files.items() if paths}


def _by_position(folder: Path, pattern: str, val_share: float, seed: int) -> Files:
    """Return the files and splits of runs that know no `split`: no linked folders, a share of the bytes."""
    if all((folder / split).is_dir() for split in TextFiles.splits):
        return {split: _globbed(folder / split, pattern) for split in TextFiles.splits}
    found = _globbed(folder, pattern)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    val = {folder / path for path in held_out(sizes, val_share, seed)}
    return divided(found, val.__contains__)


def _globbed(folder: Path, pattern: str) -> list[Path]:
    found = sorted(
        path
        for path in folder.glob(pattern)
        if path.is_file()
        and path.stat().st_size
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return found or _none(folder, pattern)


def _none(folder: Path, pattern: str) -> list[Path]:
    raise UserError(
        f"{folder} holds no text: nothing but empty files matches {pattern}",
        expected="UTF-8 files with text",
        remedy="choose other files: data.source.pattern='**/*.txt'",
    )
