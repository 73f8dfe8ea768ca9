"""Runs that crashed, trials, and runs that go on: none stands in the way of the next command."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from commands import COARSE
from composing import composed

from mrl_experiments import identity
from mrl_experiments.errors import UserError
from mrl_experiments.options.check import check
from mrl_experiments.runs import find_runs, run_of
from mrl_experiments.training import settled
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.train import train

QUICK = ["data.loader=torch", "data.workers=0", "data.batch_size=256", "trainer.progress=false", "epochs=1"]
QUICK += ["trainer.limit_train_batches=2"]
NAME = "mrl_tiny_digits_s0"
CONSTANT = ["optim=timm", "optim.schedule=constant", "optim.warmup_epochs=0.5"]


def configured(root, *overrides):
    cfg = composed("train", *COARSE, *QUICK, f"root={root}", *overrides)
    check(cfg, "train")
    return cfg


def crashed(root, monkeypatch, *overrides):
    """Leave what a run leaves whose first step fails."""
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        patch.setattr(NestedModule, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError("crash")))
        train(configured(root, *overrides))
    assert (root / "runs" / NAME / "config.yaml").exists()


def steps(cfg):
    with run_of(cfg).metrics.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["metric"] == "lr"]


def test_a_run_that_crashed_before_its_first_checkpoint_is_begun_anew(tmp_path, monkeypatch):
    crashed(tmp_path, monkeypatch, "optim.lr=0.1")
    cfg = configured(tmp_path, "optim.lr=0.2")
    train(cfg)
    assert run_of(cfg).config.optim.lr == 0.2 and run_of(cfg).finished.exists()


def test_a_damaged_configuration_without_a_checkpoint_is_no_run_either(tmp_path):
    folder = tmp_path / "runs" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{")
    train(configured(tmp_path))
    assert (folder / "finished.json").exists()


def test_a_glob_leaves_out_what_is_no_run_and_says_so(tmp_path, monkeypatch, capsys):
    train(configured(tmp_path, "tag=_b"))
    crashed(tmp_path, monkeypatch)
    train(configured(tmp_path, "trainer.overfit_batches=1"))
    capsys.readouterr()
    assert [run.name for run in find_runs(tmp_path, "*")] == [f"{NAME}_b"]
    line = capsys.readouterr().err
    assert f"debug, {NAME}" in line and line.count("\n") == 1
    assert [run.name for run in find_runs(tmp_path, "debug")] == ["debug"]
    assert [run.name for run in find_runs(tmp_path, NAME)] == [NAME]  # whose lack is told by what reads it
    with pytest.raises(UserError, match="matches no run"):
        find_runs(tmp_path, "*_s0")


def test_a_run_of_another_account_is_found_and_says_why_it_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "runs" / "closed").mkdir(parents=True)
    (tmp_path / "runs" / "empty").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed")
    assert [run.name for run in find_runs(tmp_path, "closed")] == ["closed"]
    with pytest.raises(UserError, match="matches no run"):
        find_runs(tmp_path, "empty")


def test_trials_do_not_meet_the_run_and_are_never_finished(tmp_path, capsys):
    train(configured(tmp_path))
    finished = (tmp_path / "runs" / NAME / "finished.json").read_bytes()
    train(configured(tmp_path, "trainer.fast_dev_run=true"))
    for batches in (1, 1, 2):
        cfg = configured(tmp_path, f"trainer.overfit_batches={batches}", "optim.lr=0.1")
        train(cfg)
        assert steps(cfg) == [batches] and not run_of(cfg).finished.exists()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {NAME, "debug"}
    assert (tmp_path / "runs" / NAME / "finished.json").read_bytes() == finished
    assert "is finished already" not in capsys.readouterr().out


def test_a_trial_takes_no_folder_of_another_run(tmp_path):
    train(configured(tmp_path, "run_name=debug"))
    with pytest.raises(UserError, match="no trial"):
        train(configured(tmp_path, "trainer.overfit_batches=1"))
    assert (tmp_path / "runs/debug/finished.json").exists()
    train(configured(tmp_path, "trainer.overfit_batches=1", "tag=_2"))


def test_each_trial_begins_from_the_other_runs_backbone(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("mrl_experiments.training.train.take_backbone", lambda *_: taken.append(None))
    for _ in range(2):
        train(configured(tmp_path, "trainer.overfit_batches=1", f"init_from={NAME}"))
    assert len(taken) == 2


def test_more_epochs_continue_a_run_whose_rate_has_no_end(tmp_path):
    train(configured(tmp_path / "a", *CONSTANT))
    longer = configured(tmp_path / "a", *CONSTANT, "epochs=2")
    train(longer)
    whole = configured(tmp_path / "b", *CONSTANT, "epochs=2")
    train(whole)
    assert steps(longer) == steps(whole) and run_of(longer).config.epochs == 2
    assert run_of(longer).summary()["epochs"] == 2
    ours, theirs = (torch.load(run_of(cfg).checkpoint, weights_only=True) for cfg in (longer, whole))
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    with pytest.raises(UserError, match="epochs: 2 there, 1 now"):
        train(configured(tmp_path / "a", *CONSTANT))


def test_more_epochs_of_a_rate_that_ends_are_refused_with_what_to_type(tmp_path):
    train(configured(tmp_path))
    with pytest.raises(UserError, match="cannot go on: the learning rate of optim=sgd_cyclic") as refused:
        train(configured(tmp_path, "epochs=2"))
    assert "tag=_2epochs" in str(refused.value) and f"init_from={NAME}" in str(refused.value)


def test_a_changed_option_names_its_run_itself(tmp_path, monkeypatch):
    typed = [*QUICK[:-1], "optim.lr=0.1", "auto_tag=true", "seed=1"]
    monkeypatch.setattr(identity, "typed_overrides", lambda: [*typed, f"root={tmp_path}"])
    cfg = configured(tmp_path, "optim.lr=0.1", "auto_tag=true", "tag=_x", "seed=1")
    settled.settle(cfg)
    assert run_of(cfg).name.startswith("mrl_tiny_digits_s1_batch_size256_")
    assert run_of(cfg).name.endswith("_lr0.1_x") and not cfg.auto_tag


def test_a_refusal_waits_for_no_library(tmp_path):
    train(configured(tmp_path))
    program = (
        "import sys; from mrl_experiments.cli.train import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'PIL', 'scipy', 'pandas'} & {*sys.modules}"
    )
    typed = [*COARSE, *QUICK, f"root={tmp_path}", "optim.lr=0.1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *typed], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "optim.lr: 0.4 there, 0.1 now" in done.stderr, done.stderr
    assert "auto_tag=true" in done.stderr and "Traceback" not in done.stderr
