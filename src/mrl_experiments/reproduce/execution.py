"""Run the chains of a plan in parallel, with an estimate of the time left."""

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from rich.console import Console
from rich.table import Table

from mrl_experiments.progress import duration
from mrl_experiments.reproduce.plan import Chain, Step

SCRIPTS = Path(__file__).parents[3]  # where train.py, embed.py and evaluate.py lie


class Reproduction:
    """Runs chains side by side, prints what is done and what is left.

    The time left follows from the minutes that a command of each kind takes, measured once some have ended.
    """

    def __init__(self, plan: Sequence[Chain], minutes: Mapping[str, float], jobs: int, logs: Path) -> None:
        self._plan, self._jobs, self._logs = plan, jobs, logs
        self._minutes = minutes
        self._measured: dict[str, list[float]] = defaultdict(list)
        self._waiting = [step for chain in plan for step in chain.steps if not step.finished]
        self._total, self._lock = len(self._waiting), Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._trained = {chain.run.name: Event() for chain in plan}
        self._stopped = False

    def describe(self, console: Console) -> None:
        """Print the plan: what each run still needs, and how long that will take."""
        table = Table("run", "steps", "done", "minutes left", title="plan")
        for chain in self._plan:
            waiting = [step for step in chain.steps if not step.finished]
            done = len(chain.steps) - len(waiting)
            alone = self._minutes_of(waiting)
            table.add_row(chain.run.name, str(len(chain.steps)), str(done), f"{alone:.0f}" if waiting else "")
        console.print(table)
        commands = f"{self._total} commands to run, {self._jobs} at a time"
        console.print(f"{commands}: about {self._left()}; logs in {self._logs}")

    def run(self) -> list[str]:
        """Run all chains; return what failed. A failed step ends its chain only, Ctrl-C ends all."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                running = [pool.submit(self._run_chain, chain) for chain in self._plan]
                while wait(running, timeout=1).not_done:  # awake each second, Ctrl-C is never noticed late
                    pass
                return [problem for chain in running if (problem := chain.result())]
            except KeyboardInterrupt:
                self._stop()
                raise

    def _run_chain(self, chain: Chain) -> str | None:
        if chain.source in self._trained:
            self._trained[chain.source].wait()  # it is earlier in the plan, so it has begun
        try:
            for step in chain.steps:
                if problem := self._run_step(step, self._logs / f"{chain.run.name}.log"):
                    return problem
                if self._stopped:
                    break
                self._trained[chain.run.name].set()  # a chain begins with its training
            return None
        finally:
            self._trained[chain.run.name].set()  # also if it failed: then those that wait fail too

    def _run_step(self, step: Step, log: Path) -> str | None:
        if step.finished:
            return None
        start = time.monotonic()
        status = self._execute(step, log)
        if self._stopped:
            return None
        if status:
            return f"{_shown(step)}: status {status}, see {log}"
        self._report(step, (time.monotonic() - start) / 60)
        return None

    def _execute(self, step: Step, log: Path) -> int:
        command = [sys.executable, str(SCRIPTS / step.verb), *step.arguments]
        threads = {"OMP_NUM_THREADS": "1"} if self._jobs > 1 else {}
        with log.open("a") as output:
            print(f"\n$ {_shown(step)}", file=output, flush=True)
            with self._lock:
                if self._stopped:
                    return 1
                process = subprocess.Popen(
                    command, env={**os.environ, **threads}, stdout=output, stderr=output
                )
                self._running.add(process)
            status = process.wait()
        with self._lock:
            self._running.remove(process)
        return status

    def _stop(self) -> None:
        """Start no further command, and ask the running ones to save and leave."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def _report(self, step: Step, minutes: float) -> None:
        with self._lock:
            self._measured[step.verb].append(minutes)
            if step in self._waiting:  # it is not when an earlier step of this very run has outdated it
                self._waiting.remove(step)
            done = self._total - len(self._waiting)
            print(
                f"[{done}/{self._total}] {minutes:4.1f} min  {_shown(step)}  ({self._left()} left)",
                flush=True,
            )

    def _left(self) -> str:
        return duration(60 * self._minutes_of(self._waiting) / self._jobs)

    def _minutes_of(self, steps: Sequence[Step]) -> float:
        """Return the minutes that `steps` take one after the other."""
        measured = {verb: statistics.mean(minutes) for verb, minutes in self._measured.items()}
        return sum(measured.get(step.verb) or self._minutes[step.verb.removesuffix(".py")] for step in steps)


def _shown(step: Step) -> str:
    return " ".join((step.verb, *(part for part in step.arguments if not part.startswith("root="))))
