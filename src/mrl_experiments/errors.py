"""UserError, which the commands print as one message, and the commands that its remedies name."""

import os
import re
import shlex
import sys
from collections.abc import Mapping

# Values that neither a shell nor Hydra takes apart, or for a number.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][\w./@+-]*", re.ASCII | re.IGNORECASE)
SPECIAL = re.compile(r'["$`\\!]')  # what a shell reads inside double quotes


class UserError(Exception):
    """Something the user can mend: the value, what was expected, and the remedy.

    The root scripts print it as one message without a traceback and exit with status 2.
    """

    def __init__(self, problem: str, *, expected: str = "", remedy: str = "") -> None:
        self.problem, self.expected, self.remedy = problem, expected, remedy
        lines = [problem]
        if expected:
            lines.append(f"  expected: {expected}")
        if remedy:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: worker processes send their errors to the parent."""
        return (_rebuild, (self.problem, self.expected, self.remedy))


def _rebuild(problem: str, expected: str, remedy: str) -> UserError:
    return UserError(problem, expected=expected, remedy=remedy)


def said(error: BaseException) -> str:
    """Return what an error says, in one line; its type where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def shown(value: object, longest: int = 100) -> str:
    """Return a stored value for a message: on one line, shortened, without what a terminal would obey."""
    text = str(value) if str(value).isprintable() else repr(value)
    return text if len(text) <= longest else text[:longest] + "..."


def command_line(script: str, options: Mapping[str, str]) -> str:
    """Return a command to be copied into a shell: what has a meaning to the shell or to Hydra is quoted.

    An installed command, such as mrl-train, names the others as they are installed.
    """
    installed = os.path.basename(sys.argv[0]).startswith("mrl-")
    program = [f"mrl-{script.removesuffix('.py')}"] if installed else ["python", script]
    return " ".join(
        map(_for_shell, [*program, *(f"{key}={_quoted(value)}" for key, value in options.items())])
    )


def _for_shell(word: str) -> str:
    """Return a word as a shell reads it: "run='mrl_*'" in place of 'run='"'"'mrl_*'"'"''."""
    quoted = shlex.quote(word)
    return quoted if quoted == word or SPECIAL.search(word) else f'"{word}"'


def _quoted(value: str) -> str:
    if PLAIN.fullmatch(value):
        return value
    value = value.replace("${", r"\${")
    # In Hydra's grammar, a backslash needs another only where a quote follows.
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", r"\'"), value) + "'"
