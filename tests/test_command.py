"""What the commands make of errors."""

import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import ROOT, TINY, run, succeed
from hydra.errors import InstantiationException
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch._utils import ExceptionWrapper

from mrl_experiments import command
from mrl_experiments.command import as_user_error
from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError
from mrl_experiments.results import ResultRow, write_rows


def raised_in_a_worker(error):
    """Return what torch's DataLoader raises for an error in one of its processes."""
    try:
        raise error
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    try:
        wrapper.reraise()
    except Exception as again:
        return again


@pytest.mark.parametrize(
    "error, shown",
    [
        (UserError("a.png cannot be read", expected="a picture", remedy="remove it"), None),
        (UserError("a.png cannot be read"), None),
        (RuntimeError("unable to write: File too large"), "RuntimeError: unable to write: File too large"),
        (KeyError("abc"), "KeyError: 'abc'"),
    ],
)
def test_an_error_in_a_process_that_reads_data_is_shown_as_it_was(error, shown):
    assert str(as_user_error(raised_in_a_worker(error))) == (shown or str(error))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Fabric(accelerator="cpu", strategy="abc"),
        lambda: pl.Trainer(accelerator="cpu", logger=False, val_check_interval="abc"),
    ],
)
def test_what_lightning_refuses_is_an_option_and_no_fault(refused):
    with pytest.raises((ValueError, TypeError, MisconfigurationException)) as caught:
        refused()
    assert "options of trainer" in as_user_error(caught.value).expected
    assert "no error of this kind" in as_user_error(ValueError("of our own")).expected


@pytest.mark.parametrize("target", ["abc", [1], 3, None, "", "no_such.module"])
def test_a_target_that_cannot_be_called_is_an_option_and_no_fault(target):
    with pytest.raises(InstantiationException) as caught:
        construct(OmegaConf.create({"_target_": target, "x": {"_target_": target}}))
    shown = as_user_error(caught.value)
    assert "full name of a class" in shown.expected and "_target_" in shown.problem


def test_a_class_that_cannot_be_loaded_for_want_of_memory_is_no_wrong_name(monkeypatch, tmp_path):
    text = "raise ImportError('libx.so: failed to map segment from shared object', path='x.so')"
    (tmp_path / "too_large.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError) as caught:
        construct(OmegaConf.create({"_target_": "too_large.Class"}))
    assert "not enough memory: libx.so" in as_user_error(caught.value).problem


def test_what_the_system_refuses_inside_a_class_is_told_as_such(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        construct(OmegaConf.create({"_target_": "os.listdir", "path": str(tmp_path / "loop")}))
    assert "loop: links that lead in a circle" in as_user_error(caught.value).problem


def test_a_monitor_that_is_not_measured_is_an_option_and_no_fault():
    stopping = pl.callbacks.EarlyStopping("val/nothing", check_on_train_epoch_end=False)
    module, loader = BoringModel(), torch.utils.data.DataLoader(torch.ones(2, 32))
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, barebones=False, max_epochs=1, callbacks=[stopping],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        trainer.fit(module, loader, loader)
    assert "options of trainer" in as_user_error(caught.value).expected


def too_many_files():
    raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")


@pytest.mark.parametrize(
    "exhaust, remedy",
    [
        (lambda: torch.empty(1 << 60), "smaller batches"),
        (lambda: np.empty(1 << 50), "smaller batches"),
        (too_many_files, "ulimit -n 1024"),
    ],
)
def test_what_the_machine_has_too_little_of_is_no_fault(exhaust, remedy):
    with pytest.raises(Exception) as caught:
        exhaust()
    assert remedy in as_user_error(caught.value).remedy


def test_a_signal_that_python_would_ignore_ends_the_process():
    code = """
import os, signal, sys, time
from mrl_experiments import command
signal.signal(signal.SIGTERM, command._stop)
sys.unraisablehook = command._stop_again
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
Freed()
time.sleep(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_a_configuration_is_one_line(number):
    launched = f"launch(lambda: os.kill(os.getpid(), {int(number)}))"
    code = f"import os; from mrl_experiments.command import launch; {launched}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    assert done.stderr.strip().endswith("ed; what was complete is kept") and "Traceback" not in done.stderr


def test_what_lightning_refuses_ends_with_the_status_of_an_error_of_the_user(tmp_path):
    done = run("train.py", *TINY, f"root={tmp_path}", "trainer=cpu", "trainer.strategy=nonsense")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert "options of trainer" in done.stderr and "Traceback" not in done.stderr


def test_an_option_of_a_group_that_there_is_not_lists_those_there_are():
    done = run("train.py", "logger=nothing")
    assert done.returncode == 2 and done.stderr.startswith("error: logger=nothing: there is no such choice")
    assert "tensorboard" in done.stderr and "fault of" not in done.stderr


def test_a_configuration_is_printed_with_nothing_else(tmp_path):
    assert "sweep" not in succeed("train.py", "--cfg", "job")


def test_a_process_that_reads_data_and_dies_is_one_message():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible")
    assert "/dev/shm" in str(as_user_error(error))


def test_the_folder_of_a_sweep_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    done = run("train.py", "-m", f"root={tmp_path / 'file'}", "data=digits")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'file'}")
    assert (
        "a file stands where a folder should be" in done.stderr and "remedy:   move the file" in done.stderr
    )


COMMANDS = {
    "a sweep": ["report.py", "-m", "root=a,b"],
    "an error": ["report.py", "root=a"],
    "a configuration": ["report.py", "--cfg", "job"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_is_one_line_at_most(command, stream, tmp_path):
    done = run(*COMMANDS[command], f"hydra.sweep.dir={tmp_path}", unread=stream)
    if stream == "stdout":
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    unwritten = command != "a configuration" or stream == "stdout"
    assert done.returncode == (2 if unwritten else 0)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow)])
def test_names_that_a_terminal_cannot_show_end_no_command(encoding, tmp_path):
    out = tmp_path / "報告é"
    names = ["走", "method", "model", "dataset", "split", "evaluation", "reduction"]
    write_rows(tmp_path / "rows.csv", [ResultRow(*names, 8, True, {}, "top1", 0.5, 0)])
    options = [f"rows=[{tmp_path}/rows.csv]", f"out={out}", "figures=[]"]
    said = succeed("report.py", *options, env={"PYTHONIOENCODING": encoding})
    assert "report: " in said and r"\u5831\u544a" in said
    assert (out / "index.html").exists()


@pytest.mark.slow
def test_closed_streams_are_given_somewhere_to_go(tmp_path):
    names = ["run", "method", "model", "dataset", "split", "evaluation", "reduction"]
    write_rows(tmp_path / "rows.csv", [ResultRow(*names, 8, True, {}, "top1", 0.5, 0)])
    command = [sys.executable, str(ROOT / "report.py"), f"rows=[{tmp_path}/rows.csv]", f"out={tmp_path}"]
    command.append("figures=[]")
    script = f"exec {shlex.join(command)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], cwd=ROOT, timeout=240, check=False).returncode == 0
    assert (tmp_path / "index.html").exists()


def test_a_panic_of_a_library_in_rust_is_no_traceback(capsys, monkeypatch):
    class PanicException(BaseException):
        pass

    def main(cfg):
        raise PanicException('failed to spawn thread: Os { code: 11, message: "unavailable" }')

    monkeypatch.setattr(command, "check", lambda *_: None)
    assert command._run(main, OmegaConf.create({"debug": False})) == (command.USER_ERROR, None)
    assert "ulimit -u" in capsys.readouterr().err
