"""The folder of an export: written whole or not at all, with a note of what it is and of its files."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    atomic_folder,
    explain_os_errors,
    hidden_folder,
    read_object,
    sha256,
    write_json,
)
from mrl_experiments.locks import acquire

NOTE, VERSION = "export.json", 1
RENEWED = {"rows"}  # what may change of one export, which is then written anew


def write_folder(
    out: Path, meaning: Mapping[str, Any], write: Callable[[Path], None], *, overwrite: bool = False
) -> bool:
    """Let `write` fill a new folder, which then is `out`; return False where it is there already.

    Args:
        out: The folder. What a writer that was killed has left beside it goes.
        meaning: JSON values by which the same export is known again.
        write: Fills the folder that it is given.
        overwrite: Replace another export, or one whose files have changed.

    Raises:
        UserError: If something else is at `out`, another export without `overwrite`, or what is no whole
            export.
    """
    with explain_os_errors(out), acquire(hidden_folder(out, "lock"), f"exports to {out}"):
        if os.path.lexists(out) and _is_same(out, meaning, overwrite):
            return False
        with atomic_folder(out) as folder:
            write(folder)
            files = {str(path.relative_to(folder)): sha256(path) for path in _files(folder)}
            write_json(folder / NOTE, {"version": VERSION, **meaning, "files": files})
    return True


def _is_same(out: Path, meaning: Mapping[str, Any], overwrite: bool) -> bool:
    """Return whether `out` holds this export, whole; False where it is to be replaced."""
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not (out / NOTE).is_file():
        raise UserError(
            f"{out} is there and holds no whole export: it has no {NOTE}",
            expected="a new folder, or one that export.py has written",
            remedy="move it away, or choose another: out=<folder>",
        )
    noted = read_object(out / NOTE, "move the folder away, or choose another: out=<folder>")
    files = noted.pop("files", {})
    there = {str(path.relative_to(out)): sha256(path) for path in _files(out) if path.name != NOTE}
    changed = sorted(name for name in {*files, *there} if files.get(name) != there.get(name))
    if noted == {"version": VERSION, **meaning} and not changed:
        return True
    different = [key for key, value in meaning.items() if noted.get(key) != value]
    if not overwrite and (changed or not {*different} <= RENEWED):
        what = f"another export: {', '.join(different)} differ" if different else "the same export"
        more = f"; since then {', '.join(changed[:3])} changed" if changed else ""
        raise UserError(
            f"{out} holds {what}{more}", expected="a new folder", remedy="out=<folder>, or overwrite=true"
        )
    return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
