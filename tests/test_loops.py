"""Loops of the library that a command shows once they take long."""

import pytest

from mrl_experiments import loops, progress
from mrl_experiments.loops import loops_shown, tracked


@pytest.fixture
def started(monkeypatch):
    """Return the titles of shown loops; a second passes with each look at the clock."""
    titles = []

    class Shown:
        def __init__(self, title, total):
            titles.append([title, total, 0])

        def __enter__(self):
            return self.advance

        def __exit__(self, *_):
            pass

        def advance(self, count):
            titles[-1][2] += count

    clock = iter(range(10_000))
    monkeypatch.setattr(progress, "progress", Shown)
    monkeypatch.setattr(loops, "monotonic", lambda: next(clock))
    return titles


def test_a_loop_is_shown_where_a_command_asks_for_it_and_it_takes_more_than_two_seconds(started):
    assert list(tracked("abcdef", "spelling", 6)) == [*"abcdef"]
    assert started == []
    with loops_shown():
        assert list(tracked("ab", "spelling", 2)) == [*"ab"] and started == []
        assert list(tracked("abcdef", "spelling", 6)) == [*"abcdef"]
        with loops_shown(False):
            list(tracked("abcdef", "silent", 6))
    assert started == [["spelling", 6, 5]]


def test_of_loops_inside_one_another_the_outermost_is_shown(started):
    with loops_shown():
        for _ in tracked(range(5), "outer", 5):
            list(tracked(range(5), "inner", 5))
        list(tracked(range(5), "next", 5))
    assert [title for title, *_ in started] == ["outer", "next"]


def test_a_loop_that_is_left_shows_others_again(started):
    with loops_shown():
        for _ in tracked(range(5), "left", 5):
            break
        list(tracked(range(5), "next", 5))
    assert [title for title, *_ in started] == ["next"]
