"""Writing files so that a reader sees the old content or the new one, never half of it."""

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrl_experiments.errors import UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block ends well.

    On an error the temporary file is removed and `target` stays as it was. Raises UserError on a full disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise_if_disk_full(error, target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def raise_if_disk_full(error: OSError, target: Path) -> None:
    """Turn ENOSPC into a UserError that names `target`; return on any other error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(
            f"no space left on the disk while writing {target}",
            expected="enough free space for the file; nothing half-written was kept",
            remedy="free some space, or choose another folder, and repeat the command",
        ) from error


def require_space(folder: Path, needed: int, remedy: str = "free some space") -> None:
    """Raise UserError when the disk under `folder` has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free", remedy=remedy
        )


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(target) as path:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_mapping(path: Path) -> dict[str, str]:
    """Read names to names from a JSON object or a CSV file of two columns (its first line is the heading).

    Raises UserError when the file is missing or is neither.
    """
    expected = "a JSON object {name: name}, or a CSV file with a heading and two columns"
    if not path.is_file():
        raise UserError(f"the mapping {path} does not exist", expected=expected)
    try:
        if path.suffix == ".json":
            return _of_strings(read_json(path))
        with path.open(newline="", encoding="utf-8") as file:
            (_, _), *rows = [row for row in csv.reader(file) if row]
        return {name.strip(): value.strip() for name, value in rows}
    except (ValueError, UnicodeError) as error:
        raise UserError(f"{path} is no mapping: {error}", expected=expected) from error


def _of_strings(content: Any) -> dict[str, str]:
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}")
    odd = [name for name, value in content.items() if not isinstance(value, str | int)]
    if odd:
        raise ValueError(f"{odd[0]} has {content[odd[0]]!r}, not one name")
    return {name: str(value) for name, value in content.items()}


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
