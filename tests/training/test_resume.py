"""Runs that are stopped at a chosen batch, in this process, end bit-equal to one that was not."""

import csv
import gc
import os
import signal

import pytest
import torch
from composing import composed
from hydra.utils import instantiate

from mrl_experiments.build import load_method
from mrl_experiments.errors import UserError
from mrl_experiments.runs import run_of
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.train import train

pytestmark = pytest.mark.slow
SMALL = [
    "data=digits",
    "model.arch=test_resnet",
    "logger=csv",
    "epochs=2",
    "data.loader=torch",
    "data.workers=1",
    "data.batch_size=128",  # 11 batches an epoch
    "trainer.progress=false",
    "trainer.checkpoint_minutes=60",
]


def configured(root, *overrides):
    return composed("train", *SMALL, f"root={root}", *overrides)


def attempt(cfg):
    """Train; return the exit status. The run's lock goes with the frames of the exception."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        train(cfg)
        return 0
    except SystemExit as stopped:
        return stopped.code
    finally:
        gc.collect()
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_in(monkeypatch, step_name, when, number=signal.SIGTERM):
    """Send a signal in the `when`-th call of a step of the module, counted over all attempts."""
    original, calls = getattr(NestedModule, step_name), []

    def step(self, *arguments):
        calls.append(None)
        if len(calls) in when:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(NestedModule, step_name, step)


def outcome(cfg):
    run = run_of(cfg)
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    with run.metrics.open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file) if row["metric"] != "samples_per_s"]
    return checkpoint, rows, run.summary()["validation"]


def without_text(state):
    """Leave out text, which torch does not compare: timm's schedules name their fields."""
    if isinstance(state, dict):
        return {key: without_text(value) for key, value in state.items() if not isinstance(value, str)}
    return [without_text(value) for value in state] if isinstance(state, list) else state


def assert_same(ours, theirs):
    shared = ("state_dict", "optimizer_states", "lr_schedulers", "random_states")
    for key in (*shared, *({"current_model_state", "averaging_state"} & theirs[0].keys())):
        torch.testing.assert_close(*(without_text(kept[0][key]) for kept in (ours, theirs)), rtol=0, atol=0)
    assert ours[0]["global_step"] == theirs[0]["global_step"]
    assert ours[1] == theirs[1]
    assert ours[2] == theirs[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    kept = {}

    def of(*overrides):
        if overrides not in kept:
            cfg = configured(tmp_path_factory.mktemp("whole"), *overrides)
            assert attempt(cfg) == 0
            kept[overrides] = outcome(cfg)
        return kept[overrides]

    return of


ACCUMULATED = ("trainer.accumulate_grad_batches=4", "trainer.log_every_n_steps=3")


@pytest.mark.parametrize(
    ("options", "step", "when"),
    [
        (
            ACCUMULATED,
            "training_step",
            (2, 9, 15, 22),
        ),  # inside and after accumulations, at the last of an epoch
        (ACCUMULATED, "validation_step", (2,)),
        ((*ACCUMULATED, "trainer.val_check_interval=4"), "training_step", (4, 10)),
        (("batch_augment=strong", "data.balance=0.5", "optim=timm"), "training_step", (3, 16)),
        ((*ACCUMULATED, "callbacks=[best,ema,early_stopping,every_epochs]"), "training_step", (9, 15)),
        (("trainer.precision=16-mixed", "trainer.log_every_n_steps=5"), "training_step", (3, 11)),
        (
            ("trainer.limit_train_batches=7", "trainer.accumulate_grad_batches=3"),
            "training_step",
            (2, 5, 9, 14),
        ),
        (("loss=slim", "trainer.log_every_n_steps=3"), "training_step", (4, 13)),
        (("loss.weights_rise=0.8", "trainer.accumulate_grad_batches=2"), "training_step", (4, 13)),
    ],
)
def test_stopped_runs_end_with_the_weights_and_rows_of_one_that_was_not(
    tmp_path, monkeypatch, uninterrupted, options, step, when
):
    cfg = configured(tmp_path, *options)
    whole = uninterrupted(*options)
    stop_in(monkeypatch, step, when)
    statuses = []
    while (status := attempt(cfg)) and len(statuses) < 20:
        statuses.append(status)
    assert set(statuses) == {143} and status == 0
    assert_same(outcome(cfg), whole)


def measured(cfg):
    """Top-1 of the saved weights on all of val, at each dim."""
    method, data = load_method(run_of(cfg)), instantiate(cfg.data)
    with torch.inference_mode():
        sums = sum(method.validate(x, y) for x, y, _ in data.val_dataloader())
    return dict(zip(method.spec.dims, (sums[:, 1] / sums[:, -1]).tolist(), strict=True))


@pytest.mark.parametrize(
    "option",
    ["trainer.check_val_every_n_epoch=2", "trainer.val_check_interval=4", "trainer.limit_val_batches=1.0"],
)
def test_the_last_validation_is_that_of_the_saved_weights(tmp_path, option):
    cfg = configured(tmp_path, option, "trainer.precision=32-true", "epochs=3")
    assert attempt(cfg) == 0
    _, rows, validation = outcome(cfg)
    top1 = {int(dim): row["top1"] for dim, row in validation.items()}
    assert top1 == pytest.approx(measured(cfg))
    run_of(cfg).finished.unlink()  # as if it had been killed before it was written
    assert attempt(cfg) == 0
    assert outcome(cfg)[1:] == (rows, validation)


def test_training_without_validation(tmp_path, capsys):
    cfg = configured(tmp_path, "trainer.limit_val_batches=0", "epochs=1")
    assert attempt(cfg) == 0 and attempt(cfg) == 0
    assert run_of(cfg).summary()["validation"] == {}
    assert capsys.readouterr().out.count("trained without validation") == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_share_that_leaves_no_batch_is_refused(tmp_path, split):
    with pytest.raises(UserError, match=f"limit_{split}_batches=0.01 leaves no batch"):
        attempt(configured(tmp_path, f"trainer.limit_{split}_batches=0.01"))


def test_a_second_interrupt_after_a_while_leaves_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("mrl_experiments.training.checkpoints.PATIENCE", -1.0)
    cfg = configured(tmp_path, "trainer.accumulate_grad_batches=11")
    stop_in(monkeypatch, "training_step", (3, 5), signal.SIGINT)
    assert attempt(cfg) == 130
    assert not run_of(cfg).checkpoint.exists()  # no step was complete
