"""Temporary files go with the command that made them, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import TINY, start

PROGRAM = """
import multiprocessing, os, signal, sys, tempfile, time
from mrl_experiments.temporary import use_own_folder
use_own_folder()
open(tempfile.mkdtemp() + "/file", "w").close()
folder = os.environ["TMPDIR"]
multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,), daemon=True).start()
nested = "import tempfile; from mrl_experiments.temporary import use_own_folder as use; use(); "
import subprocess
shown = subprocess.check_output([sys.executable, "-c", nested + "print(tempfile.gettempdir())"], text=True)
assert shown.strip() == folder and os.listdir(folder)
print(folder, flush=True)
"""
ENDS = ["", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(2)"]


@pytest.fixture
def place():
    """A temporary folder of a short name: sockets are made in it."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def is_empty(place, seconds):
    deadline = time.monotonic() + seconds
    while any(place.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(place.iterdir())


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left(end, place):
    environment = {**os.environ, "TMPDIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"{place}/mrl-"), done.stderr
    assert is_empty(place, 20)


def test_a_long_place_is_used_as_it_is(tmp_path):
    longer = tmp_path / ("x" * 60)
    longer.mkdir()
    program = PROGRAM.split("open(", maxsplit=1)[0] + "assert tempfile.gettempdir().endswith('x' * 60)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(longer)}, check=True)
    assert is_empty(longer, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_training_with_workers_and_wandb_leaves_nothing(number, place, tmp_path):
    options = [*TINY, "logger=wandb", "epochs=50", "data.loader=torch", "data.workers=2", f"root={tmp_path}"]
    process = start("train.py", *options, env={"TMPDIR": str(place), "WANDB_MODE": "offline"})
    while not (tmp_path / "runs/mrl_tiny_digits_s0/metrics.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert is_empty(place, 60)
