"""Work on the samples of a split, shared among forked processes."""

import multiprocessing as mp
import os
import queue
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from mrl_experiments.errors import UserError

CHUNK = 64  # samples between two reports
Work = Callable[[Iterator[range]], Any]


def run_workers(count: int, workers: int, work: Work, advance: Callable[[int], None]) -> list[Any]:
    """Return what `work` returns in each of `workers` processes, or of as many as there are chunks.

    `work` is called once in each, with an iterator over chunks of indices below `count`; no chunk is given
    twice. `advance(n)` is called here as n more are done. An error of `work` is raised here, and the other
    processes are ended; a process that dies raises UserError; if this process dies, the others stop.
    """
    workers = max(1, min(workers, -(-count // CHUNK)))
    context = mp.get_context("fork")
    messages = context.Queue()
    arguments = (count, workers, work, messages, os.getpid())
    processes = [
        context.Process(target=_run, args=(number, *arguments), daemon=True) for number in range(workers)
    ]
    for process in processes:
        process.start()
    results: list[Any] = []
    try:
        while len(results) < workers:
            try:
                kind, value = messages.get(timeout=0.5)
            except queue.Empty:
                _raise_if_died(processes)
                continue
            if kind == "error":
                raise value
            if kind == "done":
                advance(value)
            else:
                results.append(value)
    finally:
        for process in processes:
            if len(results) < workers:
                process.kill()
            process.join()
    return results


def _run(number: int, count: int, workers: int, work: Work, messages: Any, parent: int) -> None:
    def chunks() -> Iterator[range]:
        for start in range(number * CHUNK, count, workers * CHUNK):
            if os.getppid() != parent:
                os._exit(1)  # killed: nobody waits for this any more, and the lock must not stay held
            indices = range(start, min(start + CHUNK, count))
            yield indices
            messages.put(("done", len(indices)))

    try:
        messages.put(("result", work(chunks())))
    except (UserError, OSError) as error:
        messages.put(("error", error))
    except BaseException:
        messages.put(("error", RuntimeError(traceback.format_exc())))


def _raise_if_died(processes: list[Any]) -> None:
    for process in processes:
        if process.exitcode:
            raise UserError(
                f"a process that prepares the data ended with status {process.exitcode}",
                remedy="look for a lack of memory, lower data.workers, and repeat",
            )
