"""Several processes in one training: how long they wait for each other, and that none outlives an error."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from mrl_experiments.errors import UserError

GRACE = 15.0  # seconds a failed rank may take to leave before it is ended


def set_timeout(strategy: Any, minutes: float) -> None:
    """Set how long the processes of a strategy, which are not started yet, wait for each other: `minutes`."""
    if hasattr(strategy, "_timeout"):  # there are no others elsewhere
        strategy._timeout = timedelta(minutes=minutes)


@contextmanager
def together(strategy: Any, world_size: int) -> Iterator[None]:
    """Run a block in all processes of a strategy: an error in one ends them all, also those that are stopped.

    Raises UserError where a process did not answer in time.
    """
    try:
        yield
    except BaseException as error:
        _end_other_ranks(strategy, world_size)
        if world_size > 1 and _is_timeout(error):
            minutes = strategy._timeout.total_seconds() / 60
            raise UserError(
                f"another process of this command did not answer for {minutes:g} minutes",
                expected="processes that all run; one was stopped, hangs, or has lost its connection",
                remedy="repeat the command, which resumes; trainer.timeout_minutes sets the patience",
            ) from error
        raise


def _is_timeout(error: BaseException) -> bool:
    text = str(error).lower()  # torch has no type of its own for most of them
    return isinstance(error, RuntimeError) and ("timed out" in text or "timeout" in text)


def _end_other_ranks(strategy: Any, world_size: int) -> None:
    """Make sure that one failing rank ends them all: the others may wait in a collective for ever.

    Lightning watches the processes it started; this covers its first process, and one that hangs on leaving.
    torchrun watches its own.
    """
    if world_size == 1:
        return
    listed: list[Any] = getattr(strategy.launcher, "procs", [])
    started = list(listed)
    listed.clear()  # Lightning's observer reads this list, and kills all when one of it has ended
    for process in started:
        process.send_signal(signal.SIGKILL)  # also where it is stopped
    deadline = time.monotonic() + GRACE  # one may sit in a read of a network's file system
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    watchdog = threading.Timer(GRACE, os._exit, args=(1,))
    watchdog.daemon = True
    watchdog.start()
