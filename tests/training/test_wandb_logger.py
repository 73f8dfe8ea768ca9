"""W&B where there is no server, with an odd name, in each mode: one line, and the rows are there."""

import builtins
import re
import time

import pytest
from composing import composed

from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run
from mrl_experiments.training import wandb_logger as tested
from mrl_experiments.training.trainer import build_loggers
from mrl_experiments.training.wandb_logger import LONGEST, wandb_id, wandb_logger

KEY = "0" * 40


def configured(mode="auto"):
    return composed("train", "logger=wandb", f"logger.wandb.mode={mode}")


def started(run, mode="auto"):
    return wandb_logger(run, project="mrl-experiments", entity=None, mode=mode)


def forget(wandb):
    """End a run of this process, also another test's; W&B reads the environment once."""
    if wandb.run is not None:
        wandb.run.finish()
    wandb.teardown()


@pytest.fixture
def run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    forget(wandb)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield Run(tmp_path / "mrl_tiny#2")
    forget(wandb)


def folders(run):
    return sorted(re.match("(offline-)?run", path.name)[0] for path in run.folder.glob("wandb/*run-*"))


@pytest.mark.parametrize(
    "name", ["mrl_tiny_s0", "mrl#2", "a/b\\c?d%e:f,g;h'i", "x" * 200, "漢字", " blank ", "weights-8+16boost"]
)
def test_ids_are_legal_and_keep_names_apart(name):
    legal = wandb_id(name)
    assert re.fullmatch(r"[A-Za-z0-9_.+=-]+", legal) and len(legal) <= LONGEST
    assert legal != wandb_id(name + "#")
    assert (legal == name) == bool(re.fullmatch(r"[A-Za-z0-9_.+=-]{1,64}", name))


@pytest.mark.parametrize("mode", ["offline", "dryrun", "online"])  # online without a key
def test_without_a_key_it_is_offline(run, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    logger = started(run)
    logger.log_metrics({"train/loss@8": 1.0}, step=1)
    assert folders(run) == ["offline-run"]
    assert logger.experiment.name == "mrl_tiny#2"


def test_disabled_writes_nothing(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert started(run) is None
    assert started(run, "disabled") is None
    assert not run.folder.exists()


def test_unknown_modes_are_refused(run, monkeypatch):
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=onlin"):
        started(run, "onlin")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE=sometimes"):
        started(run)


def test_a_damaged_installation_is_one_line(run, monkeypatch, capsys):
    original = builtins.__import__

    def broken(name, *arguments, **options):
        if name == "wandb":
            raise AttributeError("partially initialised")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert len(build_loggers(configured(), run)) == 1
    assert capsys.readouterr().out == "W&B: partially initialised; metrics go to metrics.csv only\n"


def test_what_fails_later_is_one_line(run, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = started(run)
    monkeypatch.setattr(logger.experiment, "log", lambda *a, **k: 1 / 0)
    for step in (1, 2):
        logger.log_metrics({"train/loss@8": 1.0}, step=step)
    assert capsys.readouterr().out == "W&B: division by zero; nothing more is sent to it\n"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "shared"])
def test_a_server_that_is_not_there_makes_it_offline(run, monkeypatch, capsys, mode):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    logger = started(run, mode)
    assert time.monotonic() - began < 60
    logger.log_metrics({"train/loss@8": 1.0}, step=1)
    assert "offline-run" in folders(run)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].endswith("; logging offline")
    assert tested.INIT_SECONDS < 10


def test_a_report_is_sent_as_one_artifact(run, monkeypatch, capsys):
    for name in ("index.html", "tables.md", "tables/table01.csv", "figures/figure02.png", ".lock", "wandb/x"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    sent = []

    def start(of):
        logger = started(of)
        monkeypatch.setattr(logger.experiment, "log_artifact", sent.append)
        return logger

    tested.log_report(start, run.folder)
    (artifact,) = sent
    assert sorted(artifact.manifest.entries) == [
        "figures/figure02.png", "index.html", "tables.md", "tables/table01.csv",
    ]  # fmt: skip
    assert "the report is the artifact report" in capsys.readouterr().out
    tested.log_report(lambda of: None, run.folder)  # disabled: nothing happens
