"""The plan, the order and the resumption of scripts/reproduce.py, on digits."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, run
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from mrl_experiments.reproduce.plan import chains, read_profile

PROFILE = {
    "seeds": [0],
    "train": [
        *("data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=1"),
        *("data.loader=torch", "data.workers=1", "trainer.progress=false"),
    ],
    "groups": [
        {"runs": ["loss=mrl", "loss=ff"], "embed": ["splits=[train,val]"], "evaluate": ["evaluation=linear"]},
        {"runs": ["loss=ff"], "evaluate": ["evaluation=knn reduction=svd"]},
    ],
    "minutes": {"train": 1, "embed": 1, "evaluate": 1},
}


def arguments(folder, *more, profile="tiny.yaml"):
    OmegaConf.save(OmegaConf.create(PROFILE), folder / "tiny.yaml")
    script = str(ROOT / "scripts" / "reproduce.py")
    root = str(folder / "outputs")
    return [sys.executable, script, str(folder / profile), "--root", root, "--jobs", "2", *more]


def reproduce(folder, *more):
    return subprocess.run(
        arguments(folder, *more), cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )


def waiting(folder):
    """Return how many commands the profile still needs."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plan = chains(read_profile(folder / "tiny.yaml"), folder / "outputs")
    return sum(not step.finished for chain in plan for step in chain.steps)


@pytest.mark.slow
def test_the_plan_counts_all_commands_and_runs_none(tmp_path):
    done = run(*arguments(tmp_path, "--plan")[1:], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert waiting(tmp_path) == 7  # 2 x (train, embed, evaluate) and one more
    assert "7 commands to run, 2 at a time: about 4 min" in done.stdout
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_profile_lists_those_there_are(tmp_path):
    done = run(*arguments(tmp_path, profile="other.yaml")[1:], folder=tmp_path)
    assert done.returncode == 2
    assert "captions, emoji, fashion, full, language, medium, quick, recipe" in done.stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (Path.mkdir, "tiny.yaml is a folder"),
        (os.mkfifo, "tiny.yaml is a pipe"),
        ("groups: [", "tiny.yaml is no profile: while parsing"),
        (b"\xff\xfe\x80", "tiny.yaml is not UTF-16 text"),
        ("- a", "tiny.yaml is no profile: Cannot merge"),
        ("", "tiny.yaml is no profile: Missing mandatory value: seeds"),
        ("3.5", "tiny.yaml is no profile: it is no mapping"),
        ({**PROFILE, "groups": [{"runs": []}]}, "Missing mandatory value: evaluate full_key: groups[0]"),
        ({**PROFILE, "groups": [{"runs": 3, "evaluate": []}]}, "full_key: runs"),
        ({**PROFILE, "minutes": {"train": 1, "embed": 1}}, "full_key: minutes.evaluate"),
        ({**PROFILE, "train": ["data=nonsense"]}, "data=nonsense: there is no such choice"),
    ],
)
def test_a_profile_that_cannot_be_read_is_one_error(content, problem, tmp_path, monkeypatch, capsys):
    path = tmp_path / "tiny.yaml"
    if callable(content):
        content(path)
    else:
        text = OmegaConf.to_yaml(OmegaConf.create(content)) if isinstance(content, dict) else content
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sys, "argv", ["reproduce.py", str(tmp_path / "tiny.yaml"), "--plan"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert problem in shown.splitlines()[0] and "fault of this program" not in shown


def test_jobs_are_at_least_one(tmp_path, monkeypatch, capsys):
    OmegaConf.save(OmegaConf.create(PROFILE), tmp_path / "tiny.yaml")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", str(tmp_path / "tiny.yaml"), "--jobs", "-2"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")
    assert left.value.code == 2 and "error: --jobs -2" in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    OmegaConf.save(OmegaConf.create(PROFILE), tmp_path / "tiny.yaml")
    options = ["--collect", "--root", str(tmp_path), "--out", str(tmp_path / "file")]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", str(tmp_path / "tiny.yaml"), *options])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")
    assert left.value.code == 2
    assert f"{tmp_path / 'file'}/rows: a file stands where a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_from_nothing_to_tables_and_only_what_is_missing_after_that(tmp_path):
    out = tmp_path / "kept"
    done = reproduce(tmp_path, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\[\d+/7\]", done.stdout, re.MULTILINE)) == 7
    assert (tmp_path / "outputs" / "report" / "index.html").exists()
    assert {path.name for path in (out / "rows").iterdir()} == {
        "mrl_tiny_digits_s0.csv",
        "ff_tiny_digits_s0.csv",
    }
    assert not (out / "claims.md").exists()  # digits stand beside no data of the paper
    assert "| SVD" in (out / "tables.md").read_text()
    assert list((out / "figures").glob("figure03*.png"))
    assert waiting(tmp_path) == 0
    run = tmp_path / "outputs" / "runs" / "ff_tiny_digits_s0"
    (run / "results" / "knn-digits-svd.csv").unlink()
    assert waiting(tmp_path) == 1
    (run / "embeddings" / "digits" / "val" / "meta.json").touch()  # newer than what was computed from it
    assert waiting(tmp_path) == 2


@pytest.mark.slow
def test_it_stops_when_asked_to_and_keeps_what_is_finished(tmp_path):
    process = subprocess.Popen(arguments(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("[1/7]"):
            break
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130 and "goes on from here" in err
    assert (
        time.monotonic() - asked < 120
    )  # a slow machine needs that long to begin a command, and then leaves
    reported = max([1, *map(int, re.findall(r"^\[(\d)/7\]", out, re.MULTILINE))])
    finished = 7 - waiting(tmp_path)
    assert (
        reported <= finished <= min(reported + 2, 6)
    )  # the two that were running may have come to their end


@pytest.mark.slow
def test_a_failing_run_leaves_the_others_alone(tmp_path):
    broken = tmp_path / "outputs" / "runs" / "ff_tiny_digits_s0"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "checkpoints" / "last.ckpt").touch()
    (broken / "config.yaml").write_text("seed: 7\n")  # another configuration under this name
    done = reproduce(tmp_path)
    assert done.returncode == 1
    assert "failed: train.py" in done.stderr and "loss=ff" in done.stderr
    results = tmp_path / "outputs" / "runs" / "mrl_tiny_digits_s0" / "results"
    assert (results / "linear-digits-prefix.csv").exists()
