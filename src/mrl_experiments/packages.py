"""Packages of extras, which only some commands need."""

import importlib
from typing import Any

from mrl_experiments.errors import UserError, said


def needed(name: str, what: str, extra: str = "export") -> Any:
    """Import a package of an extra for `what`, an option or a command.

    Raises:
        UserError: With how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{what} needs {name}, which does not import: {said(error)}",
            remedy=f"pip install 'mrl-experiments[{extra}]', in a checkout pip install -e '.[{extra}]'",
        ) from error
