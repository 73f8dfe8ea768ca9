"""Loops of the library whose progress a command shows, where they take long."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds that a loop may take before it is shown
_shown: ContextVar[bool] = ContextVar("shown", default=False)


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
                from mrl_experiments.progress import progress  # which takes a while to import

                advance = stack.enter_context(progress(title, total))
                advance(done)
            elif advance is not None:
                advance(1)
            yield item
