"""What the commands share: errors as one message without traceback, sweeps that outlive a failed run."""

import functools
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrl_experiments.deferred import defer_metrics
from mrl_experiments.errors import UserError
from mrl_experiments.files import os_error
from mrl_experiments.limits import watch
from mrl_experiments.options.check import check
from mrl_experiments.options.help import help_page
from mrl_experiments.options.models import offer_models
from mrl_experiments.options.several import told_apart
from mrl_experiments.options.typed import completed, quoted, renamed
from mrl_experiments.options.unknown import check_flags, not_composed
from mrl_experiments.places import CONF
from mrl_experiments.sweeps import BASIC_SWEEPER, Job, Stopped, note, note_value, noted_jobs, run_alone, show
from mrl_experiments.temporary import use_own_folder

# What torch makes of an error in a process that reads data: its traceback as text, the error at the end.
RAISED = re.compile(
    r'(?s)Original Traceback.*\n  File "[^\n]*\n(?: {4}[^\n]*\n)*'
    r"(?:mrl_experiments\.errors\.UserError: )?(.+)"
)
# How libraries, which have no types for it, say that the machine has too little of something.
LIMITS = {
    re.compile(r"DataLoader worker \(pid"): (
        "a process that reads data ended",
        "memory, and shared memory (/dev/shm), for data.workers processes",
        "use fewer of them, data.workers=<number>, or give the machine more",
    ),
    re.compile(r"MemoryError|(?i:allocate memory|out of memory|cannot allocate|failed to map)"): (
        "there is not enough memory",
        "memory for the model, its batches, and what is compared at once",
        "use smaller batches (data.batch_size), end other programs, or raise a limit (ulimit -v)",
    ),
    re.compile("can't start new thread|spawn (?:worker )?thread"): (
        "no further thread can be started",
        "a higher limit of processes and threads of this account (ulimit -u)",
        "raise it, end other programs, or use fewer data.workers",
    ),
    re.compile("Too many open files"): (
        "this process may not have more files open",
        "a higher limit, such as 1024",
        "raise it (ulimit -n 1024), or use fewer data.workers",
    ),
}
LIGHTNING = ("pytorch_lightning.", "lightning_fabric.")
# What names classes of the user's own. Without it nothing is imported from where one stands, which may be
# someone else's folder: libraries try many modules that are not installed, and Hydra runs all its plugins.
OWN = re.compile(
    r"_target_|^\+*trust=(?!(?:false|null)?$)|^(?:--config-(?:dir|path)|-c[dp])|^\+*hydra\.searchpath=",
    re.IGNORECASE,
)
AGAIN = 0.05  # seconds
USER_ERROR, FAULT = 2, 1  # exit statuses; 130 after Ctrl-C and 143 after SIGTERM, as shells have it
UNEXPECTED = "no error of this kind: it is a fault of this program or of a library it uses"
NO_CALLABLE = ("Expected a callable target", "Error locating target")  # Hydra of a _target_ that is none

# A script's main function, which may return what a sweep optimizes.
Main = Callable[[DictConfig], float | None]


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def _stop_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat a signal that came where Python ignores errors: at a fork, or while an object is freed."""
    if not isinstance(stopped := ignored.exc_value, Stopped):
        return sys.__unraisablehook__(ignored)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(stopped.signum))
    signal.setitimer(signal.ITIMER_REAL, AGAIN)


def _show_stop(stopped: Stopped) -> None:
    with suppress(OSError):
        print(f"\n{stopped.reason}; what was complete is kept", file=sys.stderr, flush=True)


def _hear_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    sys.unraisablehook = _stop_again


def command(name: str, *, isolate: bool) -> Callable[[Main], Callable[[], None]]:
    """Make a command of a function that takes the configuration conf/<name>.yaml, checked.

    A UserError is printed and ends the process with status 2, what the operating system refuses likewise, any
    other error with status 1; `debug=true` shows their tracebacks. Ctrl-C and SIGTERM are one line, too.
    In a sweep, `isolate` runs each job in a process of its own, so that neither a crash nor the process
    group of a distributed training reaches the next job. Its temporary files go when it ends.
    """

    def decorate(main: Main) -> Callable[[], None]:
        def checked(cfg: DictConfig) -> float | None:
            check(cfg, name)
            return main(cfg)

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
        @functools.wraps(main)
        def run(cfg: DictConfig) -> float | None:
            if isolate:
                use_own_folder()
            _hear_signals()
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return run_job(checked, cfg, isolate=isolate)
            status, value = _run(checked, cfg)
            note_value(value)
            sys.exit(status)

        return functools.partial(launch, run, name)

    return decorate


def launch(main: Callable[[], None], name: str = "") -> None:
    """Run a command's Hydra main function; after a sweep, show its jobs and exit with 1 if any failed."""
    prepare_streams()
    _hear_signals()  # while Hydra composes the configuration, too
    defer_metrics()
    if any(OWN.search(argument) for argument in sys.argv[1:]):
        sys.path.append("")  # the folder where the user's own modules are; last, so that none hides another
    sys.argv[1:] = told_apart(completed([quoted(renamed(argument)) for argument in sys.argv[1:]]))
    offer_models(sys.argv[1:], CONF)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # without the kernels that it looks for
    logging.raiseExceptions = False  # else a log that nobody reads is a traceback
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, instead of being printed with a traceback
    try:
        watch()
        check_flags(sys.argv[1:], name)
        OmegaConf.register_new_resolver("help_page", help_page, replace=True)
        with noted_jobs() as jobs:
            main()
        status: Any = show(jobs) if jobs else 0
    except SystemExit as leaving:
        status = leaving.code
        if isinstance(leaving, Stopped):
            _show_stop(leaving)
    except Exception as error:  # what was typed makes no configuration
        if "debug=true" in map(str.lower, sys.argv):
            raise
        # Such as of a sweep's folder; Hydra's error for a file of conf/ that is not there has no number.
        if isinstance(error, UserError) or getattr(error, "errno", None) is not None:
            error = as_user_error(error)
        else:
            error = _not_composed(error, name)
        show_error(error)
        status = USER_ERROR
    try:
        sys.stdout.flush()
    except OSError as error:  # of which Python would tell once more on leaving
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status:
            show_error(as_user_error(error))
            status = USER_ERROR
    sys.exit(status)


def _not_composed(error: BaseException, name: str = "") -> UserError:
    return not_composed("\n".join(str(cause) for cause in (error, error.__cause__) if cause), name)


def show_error(error: Exception) -> None:
    """Print an error, where somebody reads it."""
    with suppress(OSError):
        print(f"error: {error}", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Let no standard stream end a command: those closed get somewhere to go, the others take any name.

    The next file would get a closed stream's number. What a terminal's encoding lacks is shown as its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_job(main: Main, cfg: DictConfig, *, isolate: bool) -> float | None:
    """Run a job of a sweep and note it; return its value.

    Raises:
        UserError: If it failed and a sweeper other than Hydra's own waits for a value.
    """
    overrides = list(HydraConfig.get().overrides.task)
    status, value = run_alone(cfg) if isolate else _run(main, cfg)
    note(Job(overrides, status, value))
    if status and HydraConfig.get().sweeper._target_ != BASIC_SWEEPER:
        raise UserError(f"the job failed with status {status}: {' '.join(overrides)}")
    return value


def _run(main: Main, cfg: DictConfig) -> tuple[int, float | None]:
    """Return the exit status of a script's main function, and what it returns."""
    try:
        return 0, main(cfg)
    except Stopped as stopped:
        _show_stop(stopped)
        sys.stdout.flush()
        os._exit(128 + stopped.signum)  # at once: on leaving, libraries wait for servers or threads, or crash
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if cfg.debug is True:
            raise
        shown = as_user_error(error)
        show_error(shown)
        return (FAULT if shown.expected == UNEXPECTED else USER_ERROR), None


def as_user_error(error: BaseException) -> UserError:
    """Return what any error means to a user, in one message."""
    if cause := RAISED.search(str(error)):
        error = UserError(cause[1].strip())
    elif isinstance(error, HydraException) and not isinstance(error, InstantiationException):
        error = _not_composed(error)
    elif isinstance(error, InstantiationException) and str(error).startswith(NO_CALLABLE):
        place = str(error).rpartition("full_key: ")[2] if "full_key" in str(error) else "an option"
        error = UserError(
            f"{str(error).splitlines()[0].partition(', set env')[0]} (_target_ of {place})",
            expected="the full name of a class or function, such as those in conf/",
            remedy="leave _target_ as it is, or check the name",
        )
    if isinstance(error, UserError):
        return error
    if isinstance(error, OmegaConfBaseException):
        return UserError(f"the configuration cannot be resolved: {error}")
    if isinstance(error, OSError) and error.errno is not None:
        return os_error(error)
    text = str(error).strip().splitlines()
    for limit, (problem, expected, remedy) in LIMITS.items():
        if limit.search(f"{type(error).__name__}: {error}"):
            shown = text[0][:200] if text else type(error).__name__
            return UserError(f"{problem}: {shown}", expected=expected, remedy=remedy)
    if _of_lightning(error):
        return UserError(text[0], expected="options of trainer that Lightning takes with this data")
    return UserError(
        f"{type(error).__name__}{f': {text[0]}' if text else ''}",
        expected=UNEXPECTED,
        remedy="repeat the command with debug=true, which shows where it happened, and report that",
    )


def _of_lightning(error: BaseException) -> bool:
    """Return whether Lightning refused an option: its own error, or a plain one that its own code raised."""
    if type(error).__name__ == "MisconfigurationException":  # which takes seconds to import
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = frames[-1].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError | TypeError | RuntimeError) and module.startswith(LIGHTNING)
