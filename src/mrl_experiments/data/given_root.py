"""The folder that `data.root=` names."""

from pathlib import Path

from mrl_experiments.errors import UserError


def given_root(root: str | None, expected: str, remedy: str, *, or_file: bool = False) -> Path:
    """Return the folder, or where `or_file` is true the file, that the user has given.

    Raises:
        UserError: If none is given, or it is not there.
    """
    path = Path(root or "").expanduser()
    if root is None or not (path.is_dir() or (or_file and path.is_file())):
        problem = "data.root= is not given" if root is None else f"data.root={root} is not a folder"
        raise UserError(problem, expected=expected, remedy=remedy)
    return path
