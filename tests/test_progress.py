"""Lines about work where there is no terminal."""

import pytest

from mrl_experiments import progress as module
from mrl_experiments.progress import Pace, duration, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_comes_once_the_speed_is_known_and_then_every_30_seconds(clock, capsys):
    with progress("embedding", 1000) as advance:
        for seconds in range(100):
            clock[0] = 100.0 + seconds
            advance(10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "embedding: 1,000" and len(lines) == 1 + 4  # after 3, 33, 63 and 93 seconds
    assert lines[1] == "embedding: 40 of 1,000, 13/s, 72 s left"
    assert lines[-1].startswith("embedding: 940 of 1,000, 10/s, 6 s left")


def test_what_takes_no_time_needs_no_line(clock, capsys):
    with progress("embedding", 10) as advance:
        advance(10)
    assert capsys.readouterr().out == "embedding: 10\n"


def test_without_a_length_nothing_is_said_of_the_rest(clock):
    pace = Pace(None)
    pace.done = 5
    assert pace.left == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3599, "1 h 00 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown
