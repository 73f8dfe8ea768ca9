"""The reference of all options, as Markdown, from the table of options and the files of conf/."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrl_experiments.options.kinds import show
from mrl_experiments.options.table import COMMANDS, EVALUATIONS, GROUPS, Options
from mrl_experiments.places import CONF
from mrl_experiments.trust import inherited

MOST_VALUES = 6  # of one option, shown with the files that have them
HEAD = """# Options

Every option of every command and group, with its default in `conf/`, its meaning, and what it takes. An
option is typed as `name=value`, one that is left out has its default. `null` leaves a value to the program.
Where files of a group differ, the default is that of most of them, and the others are named.
"""


def options_page() -> str:
    """Return the page: the options of each command, then those of each group."""
    parts = [HEAD]
    for command, options in COMMANDS.items():
        parts += [f"## `{command}.py`, `mrl-{command}`", _table("", options, {command: _tree(command)})]
    for group, options in GROUPS.items():
        files = {path.stem: _tree(f"{group}/{path.stem}") for path in _files(group)}
        parts += [f"## `{group}=`", _choices(group), _table(f"{group}.", options, files)]
    parts += ["## `evaluation=`", _choices("evaluation")]
    for path in _files("evaluation"):
        tree = _tree(f"evaluation/{path.stem}")
        tree = tree.get("evaluation", tree)  # of a file that sets options elsewhere too
        if options := EVALUATIONS.get(str(tree.get("_target_")).rpartition(".")[2], {}):
            parts += [f"### `evaluation={path.stem}`", _table("evaluation.", options, {path.stem: tree})]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def _tree(name: str) -> dict[Any, Any]:
    return inherited(CONF / f"{name}.yaml")[1]


def _choices(group: str) -> str:
    """Return a table of the files of a group, with the comment that each begins with."""
    rows = []
    for path in _files(group):
        first, second, *_ = [*path.read_text(encoding="utf-8").splitlines(), ""]
        comment = second if "@package" in first else first
        said = comment.removeprefix("# ") if comment.startswith("# ") else ""
        rows.append(f"| `{path.stem}` | {_text(said)} |")
    return "\n".join([f"| `{group}=` | |", "|---|---|", *rows])


def _table(prefix: str, options: Options, files: Mapping[str, Mapping[Any, Any]]) -> str:
    rows = []
    for key, option in options.items():
        if key.endswith("."):
            continue  # whose options have rows of their own
        default = _default(key, files)
        rows.append(f"| `{prefix}{key}` | {default} | {_text(option.meaning)} | {_text(option.describe())} |")
    return "\n".join(["| option | default | meaning | takes |", "|---|---|---|---|", *rows])


def _default(key: str, files: Mapping[str, Mapping[Any, Any]]) -> str:
    """Return the value that most files have, then the others with their files."""
    by_value: dict[str, list[str]] = {}
    for name, tree in files.items():
        for value in _values(tree, key.split(".")):
            shown = "to be given" if value == "???" else f"`{_code(value)}`"
            names = by_value.setdefault(shown, [])
            names += [] if name in names else [name]
    usual, *others = sorted(by_value.items(), key=lambda item: -len(item[1])) or [("–", [])]
    if len(others) >= MOST_VALUES:
        return "each file's own"
    return "; ".join([usual[0], *(f"{value} ({', '.join(names)})" for value, names in others)])


def _values(node: Any, parts: list[str]) -> Iterator[Any]:
    """Yield the values at a place, in which * stands for any key."""
    if not parts:
        yield node
    elif isinstance(node, Mapping):
        for key in node if parts[0] == "*" else [key for key in node if str(key) == parts[0]]:
            yield from _values(node[key], parts[1:])
    elif isinstance(node, list) and parts[0] == "*":
        for one in node:
            yield from _values(one, parts[1:])


def _code(value: Any) -> str:
    return (show(value) or '""').replace("|", "\\|")


def _text(text: str) -> str:
    return re.sub(r"([\\*_\[\]<|])", r"\\\1", text)
