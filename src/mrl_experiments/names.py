"""Names that become files and folders: one level deep, and never another place."""

from typing import Any

from mrl_experiments.errors import UserError

LONGEST = 200  # bytes; a file's own additions still fit into the 255 that file systems take


def check_name(value: Any, where: str) -> str:
    """Return `value` if a file or folder of that name lies where it is put.

    Args:
        value: What a stored file or the command line calls something.
        where: What it names, for the message, such as "data.name in config.yaml".

    Raises:
        UserError: If it is no string, empty, "." or "..", longer than LONGEST bytes, or holds a separator or
            a character that cannot be printed.
    """
    if (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and not {"/", "\\"} & set(value)
        and value.isprintable()
        and len(value.encode(errors="surrogateescape")) <= LONGEST
    ):
        return value
    shown = repr(value)
    raise UserError(
        f"{where}: {shown if len(shown) <= 100 else shown[:100] + '...'} cannot name a file or folder",
        expected=f"letters, digits and signs such as _ - + . on at most {LONGEST} bytes, without / and \\",
    )
