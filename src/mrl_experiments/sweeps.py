"""Jobs of a sweep: each in a process of its own, whoever launches them, with one table at the end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mrl_experiments.locks import acquire
from mrl_experiments.temporary import use_own_folder

JOBS, VALUE = "MRL_SWEEP_JOBS", "MRL_JOB_VALUE"  # environment: the files that jobs and their values go to
PROGRAM = "MRL_SWEEP_PROGRAM"  # environment: how Python started this command, as a list in JSON
GPUS = "CUDA_VISIBLE_DEVICES"
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # one job after another
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # which waits for no values
LAUNCHING = ("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/launcher", "hydra/sweeper")


class Stopped(SystemExit):
    """SIGTERM or Ctrl-C where nothing is to be saved; no KeyboardInterrupt, which libraries keep from us."""

    def __init__(self, signum: int, frame: FrameType | None = None) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    @property
    def reason(self) -> str:
        """What happened, in a word."""
        return "interrupted" if self.signum == signal.SIGINT else "terminated"


@dataclass(frozen=True)
class Job:
    """A job that has ended: what was typed for it, its exit status, and the value it returned."""

    overrides: Sequence[str]
    status: int
    value: float | None


@contextmanager
def noted_jobs() -> Iterator[list[Job]]:
    """Yield a list that will hold the jobs that end within the block, also in other processes."""
    jobs: list[Job] = []
    if not any(argument in ("-m", "--multirun") or "hydra.mode" in argument for argument in sys.argv):
        yield jobs
        return
    use_own_folder()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.jsonl"
        os.environ |= {JOBS: str(path), PROGRAM: json.dumps(_program())}
        try:
            yield jobs
        finally:
            with suppress(FileNotFoundError):
                jobs += [Job(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def note(job: Job) -> None:
    """Note a job for the table at the end of its sweep."""
    if path := os.environ.get(JOBS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(job)) + "\n")


def note_value(value: float | None) -> None:
    """Leave the value of this process's job where `run_alone` reads it."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if value is not None and first and (path := os.environ.get(VALUE)):
        Path(path).write_text(json.dumps(value), encoding="utf-8")


def show(jobs: Sequence[Job]) -> int:
    """Print one table of jobs with their values, and name those that failed; return 1 if any did, else 0."""
    from rich.console import Console
    from rich.table import Table

    failed = [job for job in jobs if job.status]
    values = any(job.value is not None for job in jobs)
    print(f"\nsweep: {len(jobs) - len(failed)} of {len(jobs)} runs finished")
    table = Table("job", "status", *(["value"] if values else []))
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        shown = [f"{job.value:.6g}" if job.value is not None else ""] if values else []
        own = " ".join(override for override in job.overrides if override not in common)
        table.add_row(own, f"failed ({job.status})" if job.status else "finished", *shown)
    Console().print(table)
    for job in failed:
        print(f"  failed with status {job.status}: {' '.join(job.overrides)}", file=sys.stderr)
    return 1 if failed else 0


def run_alone(cfg: DictConfig) -> tuple[int, float | None]:
    """Run a job in a process of its own; return its exit status and the value it left.

    One that is asked to stop may save its work, then the sweep ends. With a launcher that runs several jobs
    at once, each has a GPU of its own as long as there are enough.
    """
    with tempfile.TemporaryDirectory() as folder, _gpu(cfg) as environment:
        path = Path(folder) / "value.json"
        environment[VALUE] = str(path)
        with subprocess.Popen(_command(), env=environment) as job:
            try:
                status = job.wait()
            except Stopped as stopped:
                if stopped.signum == signal.SIGTERM:  # a terminal sends Ctrl-C to both
                    job.send_signal(signal.SIGTERM)
                job.wait()
                print(f"sweep {stopped.reason}; the same command continues it", file=sys.stderr)
                raise SystemExit(stopped.code) from stopped
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return status, value


def _program() -> list[str]:
    """Return what Python runs for this process's command: train.py, mrl-train, or -m with a module."""
    module = sys.modules["__main__"].__spec__
    return ["-m", module.name] if module else [str(Path(sys.argv[0]).absolute())]


def _command() -> list[str]:
    """Return the command of this job, with those of Hydra's own flags that do not concern launching it.

    They are read from Hydra's configuration and the environment, since a launcher's processes do not have the
    command line.
    """
    hydra = HydraConfig.get()
    folders = {source.provider: source.path for source in hydra.runtime.config_sources}
    flags = [f"--config-name={hydra.job.config_name}"]
    if "main" in folders:
        flags.append(f"--config-path={folders['main']}")
    if "command-line" in folders:
        flags.append(f"--config-dir={folders['command-line']}")
    own = [typed for typed in hydra.overrides.hydra if not typed.lstrip("+~").startswith(LAUNCHING)]
    program = json.loads(os.environ[PROGRAM]) if PROGRAM in os.environ else _program()
    return [sys.executable, *program, *flags, *own, *hydra.overrides.task]


@contextmanager
def _gpu(cfg: DictConfig) -> Iterator[dict[str, str]]:
    """Yield the environment of a job, with a GPU that no other job of the launcher has, if it takes one."""
    environment = dict(os.environ)
    gpus = visible_gpus()
    one = cfg.get("trainer") is not None and cfg.trainer.get("devices") == 1
    if HydraConfig.get().launcher._target_ == BASIC_LAUNCHER or not one or len(gpus) < 2:
        yield environment
        return
    number = HydraConfig.get().job.num
    gpu = gpus[number % len(gpus)]  # where there are more jobs than GPUs
    with ExitStack() as stack:
        for free in [*gpus[number % len(gpus) :], *gpus[: number % len(gpus)]]:
            with suppress(BlockingIOError):
                lock = Path(cfg.root) / "sweeps" / f".gpu-{free}.lock"
                stack.enter_context(acquire(lock, f"runs job {number} of a sweep", wait=False))
                gpu = free
                break
        yield environment | {GPUS: gpu}


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use, without importing torch."""
    if (given := os.environ.get(GPUS)) is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip()]
    return [str(number) for number in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]
