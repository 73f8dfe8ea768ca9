"""What a training says where there is no terminal."""

import re

from commands import COARSE
from composing import composed

from mrl_experiments import progress
from mrl_experiments.runs import run_of
from mrl_experiments.training.train import train


def configured(root, *overrides):
    quick = ["data.loader=torch", "data.workers=0", "trainer.precision=32-true", "trainer=cpu"]
    return composed("train", *COARSE, *quick, "data.batch_size=128", f"root={root}", *overrides)


def test_a_training_says_what_it_does_on_what_and_how_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    train(configured(tmp_path, "trainer.accumulate_grad_batches=2"))
    told = capsys.readouterr().out
    assert re.search(r"\d+ k parameters, [\d.]+ M multiply-adds a sample, on cpu with 32-true\n", told)
    assert "12 steps of 256 samples, 2 epochs of 1,536\n" in told and "resumed" not in told
    steps = re.findall(r"epoch (\d)/2, step (\d+)/12, loss ([\d.]+), [\d,]+ samples/s, (\d+ \w+) left", told)
    assert len(steps) == 22 and steps[0][1] == "0" and steps[-1][1] == "12"
    assert all(1 < float(loss) < 20 for _, _, loss, _ in steps)  # of a whole step, not of an accumulated part
    assert re.search(r"epoch 1/2: 1 batches of val are done", told)


def test_a_resumed_training_says_from_where(tmp_path, capsys):
    cfg = configured(tmp_path)
    train(cfg)
    run_of(cfg).finished.unlink()
    cfg.epochs = 3
    run_of(cfg).config_path.write_text(
        run_of(cfg).config_path.read_text().partition("\n")[2].replace("epochs: 2", "epochs: 3")
    )
    capsys.readouterr()
    train(cfg)
    assert "3 epochs of 1,408, resumed at step 22" in capsys.readouterr().out
