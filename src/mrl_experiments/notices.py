"""Lines for the user about what an evaluation leaves out."""

import functools


@functools.cache
def print_once(message: str) -> None:
    """Print a line once per process, since evaluations repeat for each draw of a reduction."""
    print(message, flush=True)
