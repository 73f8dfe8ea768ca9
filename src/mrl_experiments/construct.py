"""Make what a node of the configuration names; apart from build.py, since evaluations need no model."""

import inspect
import re
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mrl_experiments.errors import UserError

# What Python says of options that a class has not, or lacks.
OPTIONS = re.compile(r"unexpected keyword argument|missing \d+ required|multiple values for")


def construct(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a node of the configuration; what it wants to tell a user comes out as it is.

    A stored configuration is read-only until `trusted_config` has checked it, and refused here.
    """
    if OmegaConf.is_readonly(node):
        raise ValueError("a stored configuration is built from only once it has been checked")
    try:
        made = instantiate(node, _convert_="all", **arguments)  # plain lists, which all libraries take
        if isinstance(made, partial):  # which takes anything until it is called
            inspect.signature(made.func).bind_partial(*made.args, **made.keywords)
    except TypeError as error:
        raise _unknown_option(str(node.get("_target_")), error) from error
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not _tells(cause):
            if isinstance(cause, TypeError) and OPTIONS.search(str(cause)):
                raise _unknown_option(str(node.get("_target_")), cause) from error
            cause = cause.__cause__
        raise cause or error from None
    return made


def _tells(cause: BaseException) -> bool:
    """Return whether an error says more than Hydra's: for the user, or of a file that cannot be loaded."""
    unloaded = isinstance(cause, ImportError) and cause.path is not None
    return unloaded or isinstance(cause, UserError | OSError | MemoryError)


def _unknown_option(target: str, error: TypeError) -> UserError:
    return UserError(
        f"{target}: {error}",
        expected="options that it takes, as the files in conf/ have them",
        remedy="check their names; --cfg job shows them",
    )
