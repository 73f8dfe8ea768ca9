"""How far work is whose length is known: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FIRST, EVERY = 3.0, 30.0  # seconds before the first line, which says how long it will take, and between two


class Pace:
    """The speed of some work, and when it is time for a line.

    Args:
        total: How many steps there are, or None where that is not known.
    """

    def __init__(self, total: float | None = None) -> None:
        self.total, self.done = total, 0.0
        self._began = time.monotonic()
        self._due = self._began + FIRST

    def due(self) -> bool:
        """Return whether a line is due, and count from now on to the next one."""
        if (now := time.monotonic()) < self._due:
            return False
        self._due = now + EVERY
        return True

    @property
    def speed(self) -> float:
        """Steps a second since the beginning."""
        return self.done / max(1e-9, time.monotonic() - self._began)

    @property
    def left(self) -> str:
        """How long the rest takes, such as `4 min left`; nothing where that is not known."""
        if self.total is None or not self.done:
            return ""
        return f"{duration((self.total - self.done) / self.speed)} left"


def duration(seconds: float) -> str:
    """Return a time in the units of a person.

    Example:
        >>> duration(42), duration(200), duration(7500)
        ('42 s', '3 min', '2 h 05 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on a terminal; elsewhere a line at first, and one every 30 seconds.

    Args:
        title: What is done, such as "embedding digits val".
        total: Its number of steps.

    Yields:
        A function that moves on by a number of steps.

    Example:
        >>> with progress("adding", 3) as advance:
        ...     for _ in range(3):
        ...         advance(1)
        adding: 3
    """
    console, pace = Console(stderr=True), Pace(total)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def advance(count: int) -> None:
        bar.update(task, advance=count)
        pace.done += count
        if not console.is_terminal and pace.due():
            print(f"{title}: {pace.done:,.0f} of {total:,}, {pace.speed:,.0f}/s, {pace.left}", flush=True)

    if not console.is_terminal:
        print(f"{title}: {total:,}", flush=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield advance
