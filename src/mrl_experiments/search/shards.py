"""Queries shared among the processes of one command, and what each has found put together again."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def processes() -> tuple[int, int]:
    """Return the number of this process and how many there are: (0, 1) unless a group has been started."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shared(count: int, block: int, search: Callable[[slice], T], join: Callable[[list[T]], T]) -> T:
    """Return what a search gives for `count` queries, of which each process searches a run of whole blocks.

    All processes call this in the same order with the same arguments, and all get the whole result.

    Args:
        count: How many queries there are.
        block: How many are computed together: cut elsewhere, sums would be rounded otherwise.
        search: Called with a slice of the queries that is not empty.
        join: Puts results together, in the order of the queries.
    """
    number, several = processes()
    if several == 1:
        return search(slice(0, count))
    from torch import distributed

    size = -(-count // (block * several)) * block
    rows = slice(min(number * size, count), min((number + 1) * size, count))
    found: list[T | None] = [None] * several
    distributed.all_gather_object(found, search(rows) if rows.start < rows.stop else None)
    return join([part for part in found if part is not None])
