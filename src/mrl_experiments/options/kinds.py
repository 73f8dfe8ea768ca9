"""Kinds of options: a check of the value, and a description of what is expected."""

import difflib
import itertools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from mrl_experiments.names import LONGEST, is_name

MOST = 2**63 - 1  # of whole numbers: more is no number to the libraries
PART = 150  # bytes of a name that others are made of, such as a file of result rows
GLOB = "*?["  # names with these signs would mean something else where runs are looked up


@dataclass(frozen=True)
class Option:
    """An option of any value.

    Attributes:
        meaning: What it is, in a line.
        null: Whether it may be left to the program.
        example: A value that fits.
    """

    meaning: str = ""
    _: KW_ONLY
    null: bool = False
    example: Any = None

    def take(self, value: Any) -> Any:
        """Return `value` as the program uses it.

        Raises:
            ValueError: If it does not fit; its text says why, where `describe` does not tell.
        """
        if value is None and self.null:
            return None
        return self._take(value)

    def describe(self, plural: bool = False) -> str:
        """Return in words what it takes."""
        return self._describe(plural) + (", or null" if self.null else "")

    def near(self, value: Any) -> Any:
        """Return a value that fits, as close to `value` as is known; None where there is none."""
        return self.example

    def _take(self, value: Any) -> Any:
        return value

    def _describe(self, plural: bool) -> str:
        return "values" if plural else "a value"


@dataclass(frozen=True)
class Number(Option):
    """A finite number. low, high: bounds that belong to the range; above, below: those that do not."""

    _: KW_ONLY
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    unit: str = ""
    endless: bool = False  # infinity fits too

    def _take(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if isinstance(value, int) and abs(value) > MOST:
            raise ValueError("it has more than 64 bits")
        if self.endless and value == math.inf:
            return value
        if not (self.low <= value <= self.high and self.above < value < self.below):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        unit = f" of {self.unit}" if self.unit else ""
        return f"{self._noun(plural)}{unit}{self._range()}"

    def _noun(self, plural: bool) -> str:
        return "numbers" if plural else "a number"

    def _range(self) -> str:
        low = f" from {self.low:,}" if self.low > -math.inf else ""
        low = f" above {self.above:,}" if self.above > -math.inf else low
        high = f" to {self.high:,}" if self.high < math.inf else ""
        high = f" below {self.below:,}" if self.below < math.inf else high
        return f"{low}{' and' if low and high and not high.startswith(' to') else ''}{high}"


@dataclass(frozen=True)
class Whole(Number):
    """A whole number; 10.0 and 1e6 are some too."""

    def _take(self, value: Any) -> Any:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(whole, int):
            raise ValueError
        return super()._take(whole)

    def _noun(self, plural: bool) -> str:
        return "whole numbers" if plural else "a whole number"

    def near(self, value: Any) -> Any:
        """Return the example, or the least of all."""
        return self.example if self.example is not None or self.low == -math.inf else int(self.low)


@dataclass(frozen=True)
class Batches(Option):
    """A number of batches, from `least`, or as a float the share of all."""

    least: int = 0

    def _take(self, value: Any) -> Any:
        most = 1.0 if isinstance(value, float) else math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError
        if value < self.least and not (isinstance(value, float) and value > 0):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        share = "a share from 0.0 to 1.0" if self.least == 0 else "a share above 0.0, to 1.0"
        return f"a whole number of batches from {self.least}, or {share}"


@dataclass(frozen=True)
class Flag(Option):
    """True or false."""

    def _take(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        return "true or false"

    def near(self, value: Any) -> Any:
        """Return what is probably meant."""
        return str(value).lower() in ("1", "yes", "on", "y")


@dataclass(frozen=True)
class Choice(Option):
    """One of a few words (or numbers)."""

    words: tuple[Any, ...] = ()

    def _take(self, value: Any) -> Any:
        if isinstance(value, bool) or value not in self.words:
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        one_of = "" if len(self.words) == 1 else "some of " if plural else "one of "
        return one_of + ", ".join(dict.fromkeys(map(str, self.words)))

    def near(self, value: Any) -> Any:
        """Return the word that is written most alike."""
        words = [str(word) for word in self.words]
        return next(iter(difflib.get_close_matches(str(value), words, n=1)), words[0])


@dataclass(frozen=True)
class Text(Option):
    """Text; numbers typed without quotation marks are text too.

    Attributes:
        pattern: What all of it must match, where it is `called` something.
    """

    _: KW_ONLY
    empty: bool = False
    pattern: str = ""
    called: str = ""

    def _take(self, value: Any) -> Any:
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, int | float):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError
        if not value:
            if self.empty:
                return value
            raise ValueError("it is empty")
        return self._text(value)

    def _text(self, value: str) -> str:
        if "\0" in value:
            raise ValueError("it holds a NUL character")
        if self.called and not re.fullmatch(self.pattern, value):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        return self.called or ("texts" if plural else "a text") + (", or nothing" if self.empty else "")


@dataclass(frozen=True)
class Label(Text):
    """Printable text of at most LONGEST bytes: what tables and file names call something."""

    def _text(self, value: str) -> str:
        if not (value.strip() and is_name(value.replace("/", "-").replace("\\", "-"))):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        return f"printable text of at most {LONGEST} bytes" + (", or nothing" if self.empty else "")


@dataclass(frozen=True)
class Name(Text):
    """The name of a file or folder, never one elsewhere. longest: in bytes."""

    longest: int = PART
    without: str = ""  # further signs that it may not hold
    part: bool = False  # it only becomes the end of a name

    def _text(self, value: str) -> str:
        alone = "x" + value if self.part else value
        if not is_name(alone, self.longest) or set(value) & {*GLOB, *self.without}:
            raise ValueError
        if alone.startswith((".", " ")) or alone.endswith(" "):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        noun = "names" if plural else "a name"
        start = "" if self.part else ", not beginning with a dot"
        without = " ".join(["/", "\\", *GLOB, "]", *self.without])
        shown = f"{noun} without {without}, of at most {self.longest} bytes{start}"
        return shown + (", or nothing" if self.empty else "")


@dataclass(frozen=True)
class Path(Text):
    """A path, in which ~ is the home folder."""

    _: KW_ONLY
    example: Any = "/path/to/it"

    def _text(self, value: str) -> str:
        path = os.path.expanduser(super()._text(value))
        if path.startswith("~"):
            raise ValueError("there is no such user")
        return path

    def _describe(self, plural: bool) -> str:
        return "paths" if plural else "a path"


@dataclass(frozen=True)
class List(Option):
    """A list of items of one kind. single: an item without a list counts as a list of one.

    Attributes:
        least: How many at least.
        count: How many exactly.
        ascending: Each above the one before.
        descending: Each below the one before.
    """

    item: Option = field(default_factory=Option)
    _: KW_ONLY
    least: int = 1
    count: int | None = None
    ascending: bool = False
    descending: bool = False
    single: bool = True

    def _take(self, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            if not self.single:
                raise ValueError
            value = [value]
        taken = []
        for item in value:
            try:
                taken.append(self.item.take(item))
            except ValueError as error:
                why = str(error) or f"not {show(item)}"
                raise ValueError(why if len(value) > 1 else str(error)) from error
        self._check_length(len(taken))
        self._check_order(taken)
        return taken

    def _check_length(self, count: int) -> None:
        if count < self.least or (self.count is not None and count != self.count):
            raise ValueError("it is empty" if not count else f"{count} of them")

    def _check_order(self, taken: list[Any]) -> None:
        for before, after in itertools.pairwise(taken):
            if before == after and (self.ascending or self.descending):
                raise ValueError(f"{show(after)} is repeated")
            if (self.ascending and after < before) or (self.descending and after > before):
                raise ValueError(f"{show(after)} comes after {show(before)}")

    def _describe(self, plural: bool) -> str:
        order = "ascending " if self.ascending else "descending " if self.descending else ""
        number = f"at least {self.least} " if self.least > 1 else ""
        number = number if self.count is None else f"{self.count} "
        return f"{'lists' if plural else 'a list'} of {number}{order}{self.item.describe(plural=True)}"


@dataclass(frozen=True)
class Map(Option):
    """Values of one kind, by keys of one kind."""

    value: Option = field(default_factory=Option)
    key: Option = field(default_factory=Text)

    def _take(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError
        taken = {}
        for key, one in value.items():
            try:
                taken[self.key.take(key)] = self.value.take(one)
            except ValueError as error:
                raise ValueError(str(error) or f"not {show(key)}: {show(one)}") from error
        return taken

    def _describe(self, plural: bool) -> str:
        what = "" if type(self.value) is Option else f" of {self.value.describe(plural=True)}"
        return f"a mapping {{key: value, ...}}{what}"


@dataclass(frozen=True)
class Node(Option):
    """What is built from a configuration of its own, with `_target_`."""

    def _take(self, value: Any) -> Any:
        if not (isinstance(value, Mapping) and "_target_" in value):
            raise ValueError
        return value

    def _describe(self, plural: bool) -> str:
        return "a configuration with _target_"


@dataclass(frozen=True)
class Either(Option):
    """The first of several kinds that fits."""

    kinds: tuple[Option, ...] = ()

    def _take(self, value: Any) -> Any:
        reasons = []
        for kind in self.kinds:
            try:
                return kind.take(value)
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError(max(reasons, key=len))

    def _describe(self, plural: bool) -> str:
        return ", or ".join(kind.describe(plural) for kind in self.kinds if not isinstance(kind, Node))


def show(value: Any) -> str:
    """Write a value as it is typed on the command line, in some 100 characters."""
    shown = _show(value)
    return shown if len(shown) <= 100 else shown[:100] + "..."


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_show, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_show(one)}' for key, one in value.items())}}}"
    if isinstance(value, str) and not value.isprintable():
        return ascii(value)
    if isinstance(value, str) and set(value) & set("\"' ,"):
        return f'"{value}"'
    return str(value)
