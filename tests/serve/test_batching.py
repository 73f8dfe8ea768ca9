"""Requests that wait share a batch, get their own answers, and do not suffer for others."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from mrl_experiments.serve.batching import Batcher, Full


@dataclass(frozen=True)
class Times:
    factor: float

    def __call__(self, features):
        if features.max() > 1000:
            raise ValueError("too much")
        return (features[:, 0] * self.factor).tolist()


class Model:
    """Returns its inputs as features, and can be held up."""

    def __init__(self):
        self.batches, self.go, self.begun = [], threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.set()
        assert self.go.wait(10)
        if None in items:
            raise RuntimeError("broken")
        return np.float32(items)[:, None]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def make(model):
    made = []

    def batcher(**options):
        made.append(Batcher(model, **{"batch": 8, "wait": 0, "queue": 100, **options}))
        return made[-1]

    yield batcher
    model.go.set()
    for one in made:
        one.close()
        assert not one.alive


def held_up(model, batcher):
    """Let a first request be computed until `model.go`, while others come."""
    model.go.clear()
    first = batcher.submit([0], "a", Times(1))
    assert model.begun.wait(10)
    return first


def test_what_waits_shares_batches_of_one_kind_up_to_their_size_in_order(model, make):
    batcher = make()
    first = held_up(model, batcher)
    given = [
        ([1, 2, 3], "a"),
        ([4], "b"),
        ([5, 6, 7, 8, 9], "a"),
        ([10], "a"),
        ([11], "b"),
        (range(12, 30), "a"),
    ]
    rest = [batcher.submit(items, kind, Times(len(items))) for items, kind in given]
    model.go.set()
    assert first.result(10) == [0]
    for future, (items, _) in zip(rest, given, strict=True):
        assert future.result(10) == [item * len(items) for item in items]
    assert model.batches == [[0], [1, 2, 3, 5, 6, 7, 8, 9], [4, 11], [10], [*range(12, 30)]]


def test_the_first_waits_for_others_only_so_long(model, make):
    batcher = make(wait=0.5, batch=3)
    start = time.monotonic()
    futures = [batcher.submit([number], "a", Times(1)) for number in range(3)]
    assert [future.result(10) for future in futures] == [[0], [1], [2]]
    assert model.batches == [[0, 1, 2]] and time.monotonic() - start < 0.4
    assert batcher.submit([7], "a", Times(1)).result(10) == [7]
    assert 0.5 <= time.monotonic() - start < 5


def test_a_request_that_fails_fails_alone(model, make):
    batcher = make()
    first = held_up(model, batcher)
    good, bad, also = (batcher.submit([number], "a", Times(1)) for number in (1, 2000, 3))
    broken = batcher.submit([None], "b", Times(1))
    gone = batcher.submit([4], "a", Times(1))
    assert gone.cancel()
    model.go.set()
    assert (first.result(10), good.result(10), also.result(10)) == ([0], [1], [3])
    assert isinstance(bad.exception(10), ValueError) and isinstance(broken.exception(10), RuntimeError)
    assert [1, 2000, 3] in model.batches


def test_the_queue_holds_so_many(make):
    batcher = make(queue=3)
    with batcher.holding(2):
        with pytest.raises(Full), batcher.holding(2):
            pass
        with batcher.holding(1):
            assert batcher.held == 3
    assert batcher.held == 0


def test_what_waits_is_computed_before_the_end(model, make):
    batcher = make()
    first = held_up(model, batcher)
    last = batcher.submit([1], "a", Times(1))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)
    with pytest.raises(Full):
        batcher.submit([2], "a", Times(1))
    model.go.set()
    closing.join(10)
    assert first.result(0) == [0] and last.result(0) == [1]


class Odd:
    """A task that goes wrong in ways that are no Exception of its own."""

    def __init__(self, kind):
        self.kind = kind

    def __hash__(self):
        return 1 if self.kind != "unhashable" else [].__hash__()

    def __call__(self, features):
        if self.kind == "exit":
            raise SystemExit(3)
        return list(features[:, 0])[:-1]


@pytest.mark.parametrize("kind", ["unhashable", "exit", "short"])
def test_nothing_ends_the_thread_and_nothing_waits_for_ever(model, make, kind):
    batcher = make()
    first = held_up(model, batcher)
    odd, other = batcher.submit([1], "a", Odd(kind)), batcher.submit([2], "b", Times(1))
    model.go.set()
    assert odd.exception(10) is not None
    assert (first.result(10), other.result(10)) == ([0], [2])
    assert batcher.alive and batcher.submit([7], "a", Times(1)).result(10) == [7]
