"""A progress bar for work whose length is known."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds that a loop may take before `tracked` shows how far it is
_shown: ContextVar[bool] = ContextVar("shown", default=False)


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        print(f"{title}: {total:,}", flush=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.update(task, advance=count)


@contextmanager
def loops_shown(shown: bool = True) -> Iterator[None]:
    """Show within the block how far those loops are that the library has `tracked`."""
    before = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(before)


def tracked(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield the items of a loop; where a command shows loops, with its progress once it takes PATIENCE.

    Of loops inside one another, the outermost is shown.

    Args:
        items: What the loop is over.
        title: What it does, such as "searching neighbours".
        total: How many items there are.
    """
    if not _shown.get():
        yield from items
        return
    start, advance = monotonic(), None
    with ExitStack() as stack:
        stack.enter_context(loops_shown(False))
        for done, item in enumerate(items):
            if advance is None and done and monotonic() - start > PATIENCE:
                advance = stack.enter_context(progress(title, total))
                advance(done)
            elif advance is not None:
                advance(1)
            yield item
