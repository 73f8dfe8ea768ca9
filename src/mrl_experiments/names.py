"""Names of files and folders, checked so that each stays in its own folder."""

import hashlib
import re
from typing import Any

from mrl_experiments.errors import UserError, shown

SIMILARITIES = ("cosine", "inner_product", "l2")  # by which two vectors may be compared
RECIPES = ("balanced", "paper")  # of classifiers
LONGEST = 200  # bytes; a file's own additions still fit into the 255 that file systems take
STEM = 150  # bytes of what a file is of, in its name
UNUSUAL = re.compile(r"[^\w.=:>% ]")  # in names of data sets, models and settings


def is_name(value: Any, longest: int = LONGEST) -> bool:
    """Return whether a file or folder named `value` lies where it is put, and has at most `longest` bytes."""
    return (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and not {"/", "\\"} & set(value)
        and value.isprintable()
        and len(value.encode(errors="surrogateescape")) <= longest
    )


def check_name(value: Any, where: str) -> str:
    """Return `value` if a file or folder of that name lies where it is put.

    Args:
        value: What a stored file or the command line calls something.
        where: What it names, for the message, such as "data.name in config.yaml".

    Raises:
        UserError: If it is no string, is empty, "." or "..", longer than LONGEST bytes, or holds a separator
            or a character that cannot be printed.
    """
    if is_name(value):
        return str(value)
    raise UserError(
        f"{where}={shown(value)} cannot name a file or folder",
        expected=f"letters, digits and signs such as _ - + . of at most {LONGEST} bytes, without / and \\",
    )


def file_stem(*parts: str) -> str:
    """Return the name of a file, without its end, that says what it is of; other parts have another name.

    Example:
        >>> file_stem("kanji1k", "val", "", "k=10"), file_stem("../a")
        ('kanji1k-val-k_10', '.._a-61b4c98b')
    """
    there = [part for part in parts if part]
    plain = "-".join(re.sub(r"[^\w.]+", "_", part) for part in there)
    if len(plain.encode()) <= STEM and not any(map(UNUSUAL.search, there)):
        return plain
    digest = hashlib.sha256("\0".join(there).encode()).hexdigest()[:8]  # what else maps to the same name
    return f"{plain.encode()[:STEM].decode(errors='ignore')}-{digest}"
