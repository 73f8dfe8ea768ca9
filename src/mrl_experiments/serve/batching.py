"""One thread that computes: inputs of requests that wait share a batch."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Task(Protocol):
    """What becomes of features; equal ones (by ==) of several requests are done at once."""

    def __hash__(self) -> int:
        """Return a hash, the same for equal tasks."""

    def __call__(self, features: Array) -> Sequence[Any]:
        """Return an answer for each of the features (N, D)."""


class Full(Exception):
    """As many inputs wait as may."""


@dataclass(eq=False)
class _Waiting:
    """Inputs of one request.

    Attributes:
        items: The inputs.
        kind: What they are; only inputs of one kind share a batch.
        task: What becomes of their features.
        future: Gets the answers.
    """

    items: Sequence[Any]
    kind: Hashable
    task: Task
    future: "Future[Sequence[Any]]" = field(default_factory=Future)


class Batcher:
    """Computes the features of what requests bring, in batches, and what becomes of them, in one thread.

    Models and indexes are so used by one thread alone, and none of them has to care for others.

    Args:
        features: Returns features (N, D) of inputs of one kind.
        batch: A batch is begun when so many inputs wait. A request with more has a batch of its own.
        wait: Or when the first has waited so many seconds.
        queue: How many inputs it holds at once, waiting or being computed.
        seen: Is told how many inputs each batch has.

    Example:
        >>> batcher = Batcher(lambda items: np.float32([[item] for item in items]), batch=8, wait=0, queue=8)
        >>> batcher.submit([1, 2], "numbers", lambda features: features[:, 0] * 10).result().tolist()
        [10.0, 20.0]
        >>> batcher.close()
    """

    def __init__(
        self,
        features: Callable[[list[Any]], Array],
        *,
        batch: int,
        wait: float,
        queue: int,
        seen: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._features, self._batch, self._wait, self._most, self._seen = features, batch, wait, queue, seen
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.held = 0
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anything is still computed."""
        return self._thread.is_alive()

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Count `count` inputs as held while they are read, wait and are computed.

        Raises:
            Full: If there are too many.
        """
        with self._changed:
            if self.held + count > self._most:
                raise Full
            self.held += count
        try:
            yield
        finally:
            with self._changed:
                self.held -= count

    def submit(self, items: Sequence[Any], kind: Hashable, task: Task) -> "Future[Sequence[Any]]":
        """Return what will hold an answer for each input."""
        job = _Waiting(items, kind, task)
        with self._changed:
            if self._closed:
                raise Full
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Compute what waits, take no more, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._gathered():
            if live := [job for job in jobs if job.future.set_running_or_notify_cancel()]:
                try:
                    self._compute(live)
                except (
                    BaseException
                ) as error:  # the thread lives on, or all later requests would wait for ever
                    for job in live:
                        if not job.future.done():
                            job.future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    def _gathered(self) -> list[_Waiting]:
        """Return the jobs of the next batch, all of one kind; none when there will be no more."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            until = time.monotonic() + self._wait
            while not self._closed and sum(len(job.items) for job in self._waiting) < self._batch:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            taken: list[_Waiting] = []
            left_over: deque[_Waiting] = deque()
            count = 0
            for job in self._waiting:
                fits = not taken or (job.kind == taken[0].kind and count + len(job.items) <= self._batch)
                (taken if fits else left_over).append(job)
                count += len(job.items) if fits else 0
            self._waiting = left_over
            return taken

    def _compute(self, jobs: Sequence[_Waiting]) -> None:
        items = [item for job in jobs for item in job.items]
        self._seen(len(items))
        try:
            features = self._features(items)
        except Exception as error:  # which the requests tell
            for job in jobs:
                job.future.set_exception(error)
            return
        ends = list(itertools.accumulate(len(job.items) for job in jobs))
        if len(features) != ends[-1]:
            raise ValueError(f"{len(features)} features of {ends[-1]} inputs")
        parts = np.split(features, ends[:-1])
        alike: dict[Task, list[tuple[_Waiting, Array]]] = {}
        for job, part in zip(jobs, parts, strict=True):
            alike.setdefault(job.task, []).append((job, part))
        for members in alike.values():
            _finish(members)


def _finish(members: Sequence[tuple[_Waiting, Array]]) -> None:
    """Answer jobs with equal tasks; where one of them makes it fail, each by itself."""
    try:
        features = np.concatenate([part for _, part in members])
        answers = members[0][0].task(features)
        if len(answers) != len(features):
            raise ValueError(f"{len(answers)} answers for {len(features)} inputs")
    except Exception as error:
        if len(members) == 1:
            members[0][0].future.set_exception(error)
        else:
            for member in members:
                _finish([member])
        return
    start = 0
    for job, part in members:
        job.future.set_result(answers[start : start + len(part)])
        start += len(part)
