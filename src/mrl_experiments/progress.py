"""A progress bar for work whose length is known."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on a terminal, one line elsewhere.

    Args:
        title: What is done, such as "embedding digits val".
        total: Its number of steps.

    Yields:
        A function that moves the bar by a number of steps.

    Example:
        >>> with progress("adding", 3) as advance:
        ...     for _ in range(3):
        ...         advance(1)
        adding: 3
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        print(f"{title}: {total:,}", flush=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.update(task, advance=count)
