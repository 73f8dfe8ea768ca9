"""Limits of the system: what a library would die of without a word is one line."""

import resource
import signal
import subprocess
import sys

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.report.write import write_report

LAUNCH = "import os, sys, time; from mrl_experiments.command import launch; launch(lambda: {})"


def started(does: str, limit: str) -> subprocess.Popen[str]:
    """Start a command that only does this, after `ulimit`."""
    command = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-c", LAUNCH.format(does)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("does", "limit", "said"),
    [
        ("os.abort()", "-v 4194304", ("SIGABRT", "address space (ulimit -v) of 4,194,304")),
        ("os._exit(127)", "-v 4194304", ("status 127",)),
        ("os.kill(os.getpid(), 11)", "-s 2048", ("SIGSEGV", "stack (ulimit -s) of 2,048")),
        ("[None for _ in iter(int, 1)]", "-t 2", ("SIGKILL", "CPU time (ulimit -t) of 2")),
    ],
)
def test_what_ends_a_limited_command_is_told(does, limit, said):
    process = started(does, limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in err and err.count("error:") == 1
    assert all(part in err for part in said)


@pytest.mark.parametrize("does, status", [("sys.exit(0)", 0), ("sys.exit(5)", 5)])
def test_a_limited_command_has_its_own_status(does, status):
    process = started(does, "-v 4194304")
    assert process.communicate(timeout=60) == ("", "") and process.returncode == status


def test_a_limited_command_is_stopped_by_a_signal():
    process = started("print('here', flush=True) or time.sleep(60)", "-v 4194304")
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143 and "terminated" in err


def test_figures_that_could_not_be_drawn_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8 << 30, 8 << 30))
    with pytest.raises(UserError, match="drawing figures needs 75 GB of address space") as refused:
        write_report("no", tmp_path / "out", tmp_path, {})
    assert "figures=[]" in refused.value.remedy
    with pytest.raises(UserError, match="no result rows"):
        write_report("no", tmp_path / "out", tmp_path, {}, [])
