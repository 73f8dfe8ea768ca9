"""Limits of the system (ulimit), where a library would end the process without a word."""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from mrl_experiments.errors import UserError

UNLIMITED = resource.RLIM_INFINITY
# What each limits, the flag of ulimit, how many bytes or other units a step of ulimit is, and what is plenty.
DEADLY = {
    resource.RLIMIT_AS: ("address space", "v", 1024, UNLIMITED),
    resource.RLIMIT_DATA: ("memory", "d", 1024, UNLIMITED),
    resource.RLIMIT_STACK: ("stack", "s", 1024, 8 << 20),
    resource.RLIMIT_NPROC: ("processes and threads of this account", "u", 1, 4096),
    resource.RLIMIT_CPU: ("seconds of CPU time", "t", 1, UNLIMITED),
}
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
UNLINKED = 127  # the status with which the system's linker ends a process
PR_SET_PDEATHSIG = 1  # of prctl: the signal that a process gets when its parent ends


def _set() -> dict[str, int]:
    """Return the limits that are lower than plenty, by name, as ulimit shows them."""
    found = {kind: resource.getrlimit(kind)[0] for kind in DEADLY}
    return {
        f"{name} (ulimit -{flag})": found[kind] // unit
        for kind, (name, flag, unit, plenty) in DEADLY.items()
        if found[kind] != UNLIMITED and (plenty == UNLIMITED or found[kind] < plenty)
    }


def watch() -> None:
    """Go on in a child where one of these limits is set; this process waits, and reports what ended it.

    Native libraries abort where memory or a thread is refused, which nothing inside their process can catch.

    Raises:
        UserError: In this process, if a signal that nobody sent to it ended the child.
        SystemExit: In this process, with the status of the child.
    """
    if not (limits := _set()):
        return
    try:
        child = os.fork()
    except OSError as error:
        raise _too_little(f"no process can be started: {error.strerror}", limits) from error
    if child:
        _follow(child, limits)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setpgid(0, 0)  # a terminal's Ctrl-C comes to it once, from its parent


def _follow(child: int, limits: dict[str, int]) -> NoReturn:
    def pass_on(signum: int, frame: FrameType | None) -> None:
        sent.add(signum)
        with suppress(ProcessLookupError):
            os.kill(child, signum)

    sent: set[int] = set()
    for number in PASSED_ON:
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0 and -status not in sent:
        end = signal.Signals(-status).name
    elif status == UNLINKED:
        end = f"status {UNLINKED}: a part of it could not be loaded"
    else:
        sys.exit(status if status >= 0 else 128 - status)
    raise _too_little(f"a library, or the system, ended this command with {end}", limits)


def _too_little(problem: str, limits: dict[str, int]) -> UserError:
    shown = ", ".join(f"{name} of {value:,}" for name, value in limits.items())
    return UserError(problem, expected=f"more than the limits that are set: {shown}", remedy="raise them")


def require_address_space(needed: int, purpose: str, remedy: str) -> None:
    """Raise UserError where `ulimit -v` is below `needed` bytes, without which a library would abort."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != UNLIMITED and limit < needed:
        raise UserError(
            f"{purpose} needs {needed / 1e9:.0f} GB of address space, the limit is {limit / 1e9:.1f}",
            expected=f"a higher limit, such as ulimit -v {needed // 1024}, or none",
            remedy=remedy,
        )
