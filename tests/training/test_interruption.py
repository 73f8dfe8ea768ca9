"""Runs that are killed, and the commands that take them up again."""

import os
import signal
import subprocess
import time

import pytest
import torch
from commands import TINY, run, start

pytestmark = pytest.mark.slow
SMALL = [*TINY, "epochs=3", "data.loader=torch", "data.workers=1", "trainer.log_every_n_steps=1"]
RUN = "runs/mrl_tiny_digits_s0"


def weights(root):
    return torch.load(root / RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run did not come so far"
        time.sleep(0.02)


def logged_steps(root):
    path = root / RUN / "metrics.csv"
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    return [int(line.split(",")[0]) for line in lines if ",lr," in line]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("uninterrupted")
    done = run("train.py", *SMALL, f"root={root}")
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("minutes", [60, 0.0001])  # checkpoints at epochs only, and at every step
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path, uninterrupted, minutes):
    command = [*SMALL, f"root={tmp_path}", f"trainer.checkpoint_minutes={minutes}"]
    process = start("train.py", *command)
    wait_for(lambda: len(logged_steps(tmp_path)) > 30, process)  # 22 steps an epoch: in the second
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / RUN / "checkpoints/last.ckpt").exists()
    left = tmp_path / RUN / "checkpoints/.last.ckpt.1-00.part"  # as a kill in the middle of writing leaves it
    left.write_bytes(b"half")
    assert not (tmp_path / RUN / "finished.json").exists()
    done = run("train.py", *command)
    assert done.returncode == 0, done.stderr
    expected, resumed = weights(uninterrupted), weights(tmp_path)
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())
    assert logged_steps(tmp_path) == list(range(1, 67))
    assert not list((tmp_path / RUN).rglob("*.part"))


@pytest.mark.parametrize(  # schedulers and terminals signal the workers, too
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg)],
)
def test_a_run_asked_to_stop_saves_and_resumes(tmp_path, uninterrupted, number, send):
    command = [*SMALL, f"root={tmp_path}", "trainer.checkpoint_minutes=60"]
    process = start("train.py", *command, own_group=True)
    wait_for(lambda: len(logged_steps(tmp_path)) > 5, process)
    send(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "the same command resumes" in out and "Traceback" not in err
    if number == signal.SIGINT or send is os.killpg:
        return  # it resumes as after SIGTERM
    assert run("train.py", *command).returncode == 0
    assert all(torch.equal(weights(tmp_path)[key], value) for key, value in weights(uninterrupted).items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_data_are_prepared_is_one_line(tmp_path, number):
    environment = {"MRL_DATA": str(tmp_path / "data")}
    process = start("train.py", *SMALL, "data=kanji1k", f"root={tmp_path}", env=environment)
    wait_for(lambda: list((tmp_path / "data").glob("*")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.strip() in ("terminated; what was complete is kept", "interrupted; what was complete is kept")


def test_two_processes_never_train_the_same_run(tmp_path):
    command = [*SMALL, f"root={tmp_path}", "epochs=1000"]
    first = start("train.py", *command)
    wait_for(lambda: logged_steps(tmp_path), first)
    second = run("train.py", *command)
    assert second.returncode == 2 and "another process is training" in second.stderr
    first.kill()
    first.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        done = run("train.py", *SMALL, f"root={disk}")
        assert done.returncode == 2, done.stderr
        assert "no space left" in done.stderr and "Traceback" not in done.stderr
        left = [path.name for path in (disk / RUN / "checkpoints").glob(".*.part")]
        assert not left
    finally:
        subprocess.run(["umount", disk], check=True)
