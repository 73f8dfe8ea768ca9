"""What Hydra could not compose: the option that was probably meant, and how it is typed."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

import yaml
from hydra._internal.utils import get_args_parser

from mrl_experiments.errors import UserError
from mrl_experiments.options.kinds import Either, List, Option
from mrl_experiments.options.table import COMMANDS, EVALUATIONS, GROUPS
from mrl_experiments.options.typed import replacement
from mrl_experiments.places import CONF
from mrl_experiments.trust import inherited

HELP = "--help shows the groups and what is changed most, --cfg job all options with their values"
UNKNOWN = re.compile(r"Could not override '([^']+)'")
NO_CHOICE = re.compile(r"Could not (?:find|load) '([\w/.-]+)/([^/']+)'")
CHOICES = re.compile(r"Available options in '[^']+':\n((?:\t\S+\n?)*)")
SEVERAL = re.compile(r"Ambiguous value for argument '([^=']+)=(.*)'")
NO_VALUE = re.compile(r"Error parsing override '([^=']*)'\nmissing EQUAL")
LISTS = ("callbacks", "evaluation", "experiment", "logger", "reduction")  # groups that take several choices
NEAR = 0.7  # how alike two names are at least
USUAL = {  # names that users of Lightning, timm and other trainers expect
    "arch": "model=<any name of timm>",
    "checkpoint_path": "the same command resumes its run; init_from=<run> starts from the weights of another",
    "ckpt_path": "the same command resumes its run; init_from=<run> starts from the weights of another",
    "dataset": "data=<one that --help lists>",
    "gpus": "trainer=gpu trainer.devices=2",
    "learning_rate": "optim.lr",
    "num_workers": "data.workers",
    "optimizer": "optim=<one that --help lists>",
    "output_dir": "root=<the folder that holds runs/>",
    "resume": "the same command resumes its run",
}


def check_flags(arguments: Iterable[str], command: str) -> None:
    """Refuse flags that no command has, which argparse would answer with its own usage or take for others.

    Raises:
        UserError: Says how the option is typed.
    """
    known = get_args_parser()._option_string_actions
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--") and name != "--" and name not in known:
            word = name.lstrip("-").replace("-", "_")
            near = USUAL.get(word) or "".join(_near(word, _names(command))[:1]) or word
            typed = near if "=" in near else f"{near}={value or '<value>'}"
            raise UserError(f"there is no flag {name}", remedy=f"without dashes, {typed}; {HELP}")


def not_composed(text: str, command: str) -> UserError:
    """Return the error of a command line that makes no configuration.

    Args:
        text: What Hydra said.
        command: The script's name without .py.
    """
    if found := NO_CHOICE.search(text):
        return _no_choice(found[1], found[2], text)
    if found := SEVERAL.search(text):
        return _several(found[1], found[2], command)
    if found := NO_VALUE.search(text):
        return _no_value(found[1])
    if found := UNKNOWN.search(text):
        return _unknown(found[1], command)
    return UserError(text.partition("\nSee https://")[0], remedy=HELP)


def _no_choice(group: str, name: str, text: str) -> UserError:
    choices = (found[1] if (found := CHOICES.search(text)) else "").split()
    near = [f"{group}={one}" for one in difflib.get_close_matches(name, choices, n=2)]
    return UserError(
        f"{group}={name}: there is no such choice",
        expected=f"one of {', '.join(choices)}" if choices else "",
        remedy=replacement(text, CONF) or ", or ".join(near) or HELP,
    )


def _several(key: str, values: str, command: str) -> UserError:
    typed = f"{key}={values}"
    option = dict(_options(command)).get(key)
    takes_list = isinstance(option, List) or (
        isinstance(option, Either) and any(isinstance(kind, List) for kind in option.kinds)
    )
    remedy = f"-m {typed} runs the command once for each"
    if takes_list or key in LISTS:
        remedy = f"'{key}=[{values}]' is one list; {remedy}"
    return UserError(f"{typed} names several values", remedy=remedy)


def _no_value(word: str) -> UserError:
    files = sorted(CONF.glob(f"*/{word}.yaml")) if re.fullmatch(r"[\w.-]+", word) else []
    meant = [f"{file.parent.name}={word}" for file in files if file.parent.name != "base"]
    return UserError(
        f"{word} is no option: a value is missing", remedy=", or ".join(meant) or f"{word}=<value>; {HELP}"
    )


def _unknown(key: str, command: str) -> UserError:
    """Return the error of a key that the configuration lacks: another option's, a misspelled one, or none."""
    group, _, last = key.rpartition(".")
    problem = f"{key} is no option here"
    if others := list(_files_with(group, last)):
        one_of = " or ".join(f"{group}={one}" for one in others)
        return UserError(f"{problem}: it belongs to {one_of}", remedy="choose that, or leave the option out")
    near = " or ".join(_near(key, _names(command)))
    if usual := USUAL.get(last) or (near and f"did you mean {near}? --cfg job shows all options"):
        return UserError(problem, remedy=usual)
    return UserError(problem, remedy=f"{HELP}; +{key}=<value> adds one for a class of your own")


def _near(key: str, names: Sequence[str]) -> list[str]:
    """Return the names most like a key; the group may be missing."""
    last = key.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == last]
    near = difflib.get_close_matches(key, names, n=2, cutoff=NEAR)
    inside = [
        name for name in names if difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio() > NEAR
    ]
    return (same or near or inside)[:2]


def _names(command: str) -> list[str]:
    return [*dict.fromkeys(name for name, _ in _options(command)), *_groups(command)]


def _files_with(group: str, last: str) -> Iterator[str]:
    """Yield the choices of a group that have an option."""
    for file in sorted((CONF / group).glob("*.yaml")) if group else ():
        if last in inherited(file)[1]:
            yield file.stem


def _options(command: str) -> Iterator[tuple[str, Option]]:
    """Yield the options of a command and of its groups, with their full names."""
    yield from COMMANDS.get(command, {}).items()
    groups = set(_groups(command))
    inside = {name: options for name, options in GROUPS.items() if name in groups}
    tables = [
        *inside.items(),
        *(("evaluation", one) for one in EVALUATIONS.values() if "evaluation" in groups),
    ]
    for group, options in tables:
        for key, option in options.items():
            if not key.endswith(".") and "*" not in key:
                yield f"{group}.{key}", option


def _groups(command: str) -> Iterator[str]:
    """Yield the groups of which a command's file chooses."""
    file = CONF / f"{command}.yaml"
    defaults = yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", []) if file.is_file() else []
    for entry in defaults:
        if not isinstance(entry, str):
            yield from (name for name in entry if not name.startswith("override"))
