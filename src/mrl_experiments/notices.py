"""Lines for the user about what an evaluation leaves out."""

import functools


@functools.cache
def tell(message: str) -> None:
    """Print a line once a process: evaluations repeat themselves for each draw of a reduction."""
    print(message, flush=True)
