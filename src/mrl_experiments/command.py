"""What the root scripts share: one clear error, no traceback; sweeps that outlive a failing run."""

import functools
import re
import subprocess
import sys
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mrl_experiments.errors import UserError
from mrl_experiments.files import os_error

# What torch makes of an error in a process that reads data: its traceback as text, the error at the end.
RAISED = re.compile(
    r'(?s)Original Traceback.*\n  File "[^\n]*\n(?: {4}[^\n]*\n)*'
    r"(?:mrl_experiments\.errors\.UserError: )?(.+)"
)
USER_ERROR, FAULT, INTERRUPTED = 2, 1, 130  # exit statuses
_outcomes: list[tuple[str, int]] = []  # of a sweep's jobs: overrides, exit status

Main = Callable[[DictConfig], None]


def command(*, isolate: bool) -> Callable[[Main], Main]:
    """Wrap a script's main function.

    A UserError is printed and ends the process with status 2, what the operating system refuses likewise, any
    other error with status 1; `debug=true` shows their tracebacks.
    In a sweep, `isolate` runs each job in a process of its own, so that neither a crash nor the process
    group of a distributed training reaches the next job.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapper(cfg: DictConfig) -> None:
            sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
            if not sweeping:
                sys.exit(_run(main, cfg))
            overrides = list(HydraConfig.get().overrides.task)
            status = _run_alone(overrides) if isolate else _run(main, cfg)
            _outcomes.append((" ".join(overrides), status))

        return wrapper

    return decorate


def launch(main: Callable[[], None]) -> None:
    """Run a Hydra main function; after a sweep, say which jobs failed and exit with status 1 if any did."""
    main()
    failed = [(overrides, status) for overrides, status in _outcomes if status]
    print(f"\nsweep: {len(_outcomes) - len(failed)} of {len(_outcomes)} runs finished")
    for overrides, status in failed:
        print(f"  failed with status {status}: {overrides}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def _run(main: Main, cfg: DictConfig) -> int:
    try:
        main(cfg)
    except KeyboardInterrupt:
        print("\ninterrupted; what was complete is kept", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if cfg.debug:
            raise
        shown = _as_user_error(error)
        print(f"error: {shown}", file=sys.stderr)
        return USER_ERROR if isinstance(error, UserError | OSError | OmegaConfBaseException) else FAULT
    return 0


def _as_user_error(error: Exception) -> UserError:
    if cause := RAISED.search(str(error)):
        return UserError(cause[1].strip())
    if isinstance(error, UserError):
        return error
    if isinstance(error, OmegaConfBaseException):
        return UserError(f"the configuration cannot be resolved: {error}")
    if isinstance(error, OSError) and error.errno is not None:
        return os_error(error)
    text = str(error).strip().splitlines()
    if "DataLoader worker (pid" in str(error):
        return UserError(
            f"a process that reads data ended: {text[0]}",
            expected="memory, and shared memory (/dev/shm), for data.workers processes",
            remedy="use fewer of them, data.workers=<number>, or give the machine more",
        )
    return UserError(
        f"{type(error).__name__}{f': {text[0]}' if text else ''}",
        expected="no error of this kind: it is a fault of this program or of a library it uses",
        remedy="repeat the command with debug=true, which shows where it happened, and report that",
    )


def _run_alone(overrides: list[str]) -> int:
    return subprocess.run([sys.executable, sys.argv[0], *overrides], check=False).returncode
