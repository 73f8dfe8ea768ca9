"""What the root scripts share: one clear error, no traceback; sweeps that outlive a failing run."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mrl_experiments.errors import UserError
from mrl_experiments.files import raise_if_disk_full

USER_ERROR = 2  # exit status
_outcomes: list[tuple[str, int]] = []  # of a sweep's jobs: overrides, exit status

Main = Callable[[DictConfig], None]


def command(*, isolate: bool) -> Callable[[Main], Main]:
    """Wrap a script's main function.

    A UserError is printed and ends the process with status 2; `debug=true` shows its traceback.
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
        try:
            main(cfg)
        except OmegaConfBaseException as error:
            raise UserError(f"the configuration cannot be resolved: {error}") from error
        except OSError as error:
            raise_if_disk_full(error, Path(error.filename or cfg.root))
            raise
    except UserError as error:
        if cfg.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


def _run_alone(overrides: list[str]) -> int:
    return subprocess.run([sys.executable, sys.argv[0], *overrides], check=False).returncode
