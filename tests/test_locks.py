import errno
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from composing import composed
from disks import tiny_disk

from mrl_experiments.errors import UserError
from mrl_experiments.locks import acquire
from mrl_experiments.runs import run_lock, run_of

HOLDER = """
import sys
import time
from pathlib import Path
from mrl_experiments.locks import acquire
with acquire(Path(sys.argv[1]), "writes kanji1k"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def held(tmp_path):
    lock = tmp_path / "new" / ".lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield lock, process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("there", [False, True])
def test_what_another_account_has_made_is_named(tmp_path, monkeypatch, there):
    lock = tmp_path / ".lock"
    if there:
        lock.touch()

    def refused(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=f"permission denied: {lock if there else tmp_path}\n"):
        acquire(lock, "writes")


def test_who_waits_says_for_whom(held, capfd):
    lock, process = held
    with pytest.raises(BlockingIOError) as caught:
        acquire(lock, "reads", wait=False)
    assert f"process {process.pid} on " in caught.value.strerror and "writes kanji1k" in caught.value.strerror
    process.kill()
    with acquire(lock, "reads"):  # a lock dies with its holder
        pass


def test_waiting_ends_when_the_holder_does(held):
    lock, process = held
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert waiting.stdout.readline().startswith(f"waiting for process {process.pid} on ")
    process.communicate("\n")
    assert waiting.stdout.readline() == "held\n"
    waiting.communicate("\n")


def test_a_run_is_locked_until_the_end_of_the_block_only(tmp_path):
    config = composed("train", f"root={tmp_path}", "data=digits", "data.cache=cache")
    with run_lock(config), pytest.raises(UserError, match="another process is training"), run_lock(config):
        pass
    with run_lock(config):
        assert run_of(config).config_path.exists()


def test_a_forked_process_that_lives_on_keeps_no_lock(tmp_path):
    lock = tmp_path / ".lock"
    with acquire(lock, "reads"):
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        reader.start()
    try:
        acquire(lock, "reads", wait=False).close()
    finally:
        reader.kill()
        reader.join()


def test_on_a_full_disk_the_lock_is_named(tmp_path):
    with tiny_disk(tmp_path / "disk", 1) as disk:
        with pytest.raises(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        with pytest.raises(UserError, match=r"no space left on the disk while writing \S+\.lock"):
            acquire(disk / ".lock", "reads")
