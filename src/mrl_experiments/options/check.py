"""The check of a configuration against the table of options, before a command does anything."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from mrl_experiments.errors import UserError
from mrl_experiments.options.kinds import Map, Name, Option, show
from mrl_experiments.options.table import COMMANDS, EVALUATIONS, GROUPS, Options

KNOWN = ("mrl_experiments.", "pytorch_lightning.")  # where classes are whose options the table knows
NEEDED = {
    "train": ("model", "loss", "data", "optim", "trainer", "logger"),
    "embed": ("trainer",),
    "evaluate": ("evaluation", "reduction"),
}
FEW_PROCESSES = 8  # on CPUs, of a machine of any size
HERE = ""  # key of a tree's node: the option of all that is inside

Tree = dict[str, Any]


def check(cfg: DictConfig, command: str) -> None:
    """Check every option that the table knows, and write its value as the program uses it.

    ~ becomes the home folder, one item where a list is expected becomes a list of one, and numbers become
    text where text is expected. What the table does not know passes, such as keys added with + and all inside
    a class of the user's own.

    Args:
        cfg: The composed configuration, changed in place.
        command: The script's name without .py.

    Raises:
        UserError: Names every value that does not fit, what is expected, and a value that would.
    """
    problems = [
        _misfit(f"{group}= is not given", f"one of the files in conf/{group}", f"leave {group}=null out")
        for group in NEEDED.get(command, ())
        if not isinstance(cfg.get(group), DictConfig)
    ]
    problems += _walk(cfg, "", tree_of(cfg, command), read_data=command != "evaluate")
    if problems := problems or list(_together(cfg)):
        raise _error(problems)


def check_stored(config: DictConfig, path: Path) -> None:
    """Check the options in a run's configuration as `check` does those that are typed; convert them alike.

    Args:
        config: That of the run, changed in place.
        path: Its file, for the message.

    Raises:
        UserError: Names every value that does not fit.
    """
    if problems := list(_walk(config, "", tree_of(config, "train"), read_data=True)):
        error = _error(problems)
        raise UserError(
            f"{path}: {error.problem}", expected=error.expected, remedy="restore the file from a copy"
        )


def tree_of(cfg: DictConfig, command: str) -> Tree:
    """Return the options of a command as a tree of dictionaries, as they stand in its configuration."""
    tables: dict[str, Options] = {"": COMMANDS.get(command, {}), **GROUPS}
    target = str(OmegaConf.select(cfg, "evaluation._target_", default=""))
    tables["evaluation"] = EVALUATIONS.get(target.rpartition(".")[2], {})
    tree: Tree = {}
    for group, options in tables.items():
        for key, option in options.items():
            *path, last = f"{group}.{key}".removeprefix(".").split(".")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[last] = option
    return tree


def _walk(node: DictConfig | ListConfig, path: str, tree: Tree, *, read_data: bool) -> Iterator[UserError]:
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        known = tree.get(str(key), tree.get("*"))
        if known is None:
            continue
        name = f"{path}.{key}".removeprefix(".")
        try:
            if _points_at_another(node, key):
                continue
            if isinstance(known, Option):
                yield from _one(node, key, name, known)
                continue
            inside = node[key]
        except MissingMandatoryValue as error:
            if read_data or not name.startswith("data."):
                within = re.search(r"value: (\S+)$", str(error).splitlines()[0])  # of what lies in a mapping
                full = f"{name}.{within[1]}" if within and within[1] != name else name
                yield _problem(f"{full} is not given", full, None, _innermost(known))
            continue
        except OmegaConfBaseException as error:
            if read_data or not name.startswith("data."):
                yield _misfit(f"{name}: {str(error).splitlines()[0]}", "a value that can be resolved")
            continue
        if isinstance(inside, DictConfig) or (isinstance(inside, ListConfig) and "*" in known):
            if not _foreign(inside):
                yield from _walk(inside, name, known, read_data=read_data)
        elif not (inside is None and known.get(HERE, Option()).null):
            shown = ", ".join(f"{name}.{option}" for option in known if option != HERE)
            yield _misfit(f"{name}={show(inside)}", f"options inside it: {shown}")


def _innermost(known: Option | Tree) -> Option:
    return known.value if isinstance(known, Map) else known if isinstance(known, Option) else Map()


def _one(node: DictConfig | ListConfig, key: Any, name: str, option: Option) -> Iterator[UserError]:
    value = node[key]
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    try:
        taken = option.take(value)
    except ValueError as error:
        why = f": {error}" if str(error) else ""
        yield _problem(f"{name}={show(value)}{why}", name, value, option)
        return
    if taken != value or type(taken) is not type(value):
        node[key] = taken


def _problem(what: str, name: str, value: Any, option: Option) -> UserError:
    meaning = f" ({option.meaning})" if option.meaning else ""
    near = option.near(value)
    remedy = "" if near is None else f"for example {name}={near if isinstance(near, str) else show(near)}"
    return _misfit(what, f"{option.describe()}{meaning}", remedy)


def _points_at_another(node: DictConfig | ListConfig, key: Any) -> bool:
    """Return whether a value is that of another option, which is checked itself.

    Raises OmegaConfBaseException when there is no such option.
    """
    if not OmegaConf.is_interpolation(node, key):
        return False
    written: Any = OmegaConf.to_container(node, resolve=False)
    if not re.fullmatch(r"\$\{[^:{}]+\}", str(written[key])):
        return False
    try:
        node[key]
    except InterpolationKeyError:
        raise
    except InterpolationResolutionError:
        pass  # of the other's own, where it is named
    return True


def _foreign(node: DictConfig | ListConfig) -> bool:
    """Return whether a node describes a class that is not of this project."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return target is not None and not str(target).startswith(KNOWN)


def _together(cfg: DictConfig) -> Iterator[UserError]:
    """Yield what is wrong with options that only make sense together."""
    rules = {"trainer": _devices, "optim": _optim, "loss": _loss, "evaluation": _evaluation}
    for group, rule in rules.items():
        node = cfg.get(group)
        if isinstance(node, DictConfig) and not _foreign(node):
            options: Any = OmegaConf.to_container(node, resolve=True)
            yield from rule(options)
    if cfg.get("run") and cfg.get("database"):
        yield from _database(str(cfg.database))


def _database(database: str) -> Iterator[UserError]:
    """A split of the run or, where no files are given, <data set>/<split>; * is the queries' split."""
    try:
        for name in database.replace("*", "-").split("/", maxsplit=1):
            Name().take(name)
    except ValueError:
        yield _misfit(
            f"database={show(database)}",
            "the name of a split, or <data set>/<split>, without . or .. for either",
            "for example database=train",
        )


def check_cpus(devices: Any) -> None:
    """Raise UserError unless the CPUs of this machine can be trainer.devices, where no GPU is found."""
    if problems := list(_devices({"accelerator": "cpu", "devices": devices})):
        raise _error(problems)


def _devices(trainer: Mapping[Any, Any]) -> Iterator[UserError]:
    devices, most = trainer.get("devices"), max(FEW_PROCESSES, 2 * (os.cpu_count() or 1))
    if trainer.get("accelerator") != "cpu" or devices in ("auto", -1, "-1"):
        return
    if not isinstance(devices, int):
        yield _misfit(
            f"trainer.devices={show(devices)} on CPUs",
            "a number of processes: only GPUs are chosen by their numbers",
            "trainer.devices=1, or trainer=gpu",
        )
    elif devices > most:
        yield _misfit(
            f"trainer.devices={devices}",
            f"at most {most} processes on the CPUs of this machine, which has {os.cpu_count()} cores",
            "for example trainer.devices=2",
        )


def _optim(optim: Mapping[Any, Any]) -> Iterator[UserError]:
    if optim.get("nesterov") and optim.get("name") == "adamw_cosine":
        yield _misfit("optim.nesterov=true", "false: AdamW has no Nesterov momentum", "optim.nesterov=false")
    elif optim.get("nesterov") and optim.get("momentum") == 0:
        yield _misfit(
            "optim.nesterov=true with optim.momentum=0",
            "a momentum above 0",
            "optim.nesterov=false, or momentum=0.9",
        )


def _loss(loss: Mapping[Any, Any]) -> Iterator[UserError]:
    dims, weights = loss.get("dims"), loss.get("weights")
    if isinstance(dims, list) and isinstance(weights, list) and len(dims) != len(weights):
        yield _misfit(
            f"loss.weights={show(weights)} has {len(weights)} values for {len(dims)} dims",
            f"one for each of loss.dims={show(dims)}",
            f"for example loss.weights={show([1] * len(dims))}",
        )


def _evaluation(options: Mapping[Any, Any]) -> Iterator[UserError]:
    limits = {name: options[name] for name in ("max_loss", "max_latency") if name in options}
    if len(limits) == 2 and sum(value is None for value in limits.values()) != 1:
        yield _misfit(
            " ".join(f"evaluation.{name}={show(value)}" for name, value in limits.items()),
            "one of the two, the other null",
            "for example evaluation.max_loss=null evaluation.max_latency=1",
        )
    k, lists = options.get("k"), {"shortlist": [options.get("shortlist")], "lengths": options.get("lengths")}
    for name, lengths in lists.items():
        numbers = [length for length in lengths or () if isinstance(length, int)]
        if isinstance(k, int) and numbers and min(numbers) < k:
            yield _misfit(
                f"evaluation.{name}={show(options[name])} with evaluation.k={k}: {min(numbers)} is less",
                f"at least {k} candidates for {k} neighbours",
                f"for example evaluation.k={min(numbers)}",
            )


def _misfit(what: str, expected: str, remedy: str = "") -> UserError:
    """Return what is wrong with a value."""
    return UserError(what, expected=expected, remedy=remedy)


def _error(problems: list[UserError]) -> UserError:
    if len(problems) == 1:
        return problems[0]
    lines = [
        f"  {p.problem}\n    expected: {p.expected}{f'; {p.remedy}' if p.remedy else ''}" for p in problems
    ]
    return UserError("\n".join([f"{len(problems)} options do not fit", *lines]))
