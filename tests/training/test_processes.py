"""What ends with a process that fails."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from mrl_experiments.training import processes
from mrl_experiments.training.processes import together


def test_an_error_ends_a_stopped_process_before_it_is_raised_and_lightning_kills_nobody(monkeypatch):
    monkeypatch.setattr(processes.threading, "Timer", lambda *_, **__: SimpleNamespace(start=lambda: None))
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    launcher = SimpleNamespace(procs=[other])
    observer = _ChildProcessObserver(main_pid=0, child_processes=launcher.procs)
    killed = []
    monkeypatch.setattr(observer, "_terminate_all", lambda: killed.append(True))
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(ZeroDivisionError), together(SimpleNamespace(launcher=launcher), world_size=2):
        raise ZeroDivisionError
    assert other.returncode == -signal.SIGKILL
    assert observer._run() and not killed  # it has nothing left to watch
