"""Every argument of Lightning's Trainer, by Lightning's name."""

import csv
import inspect

import pytest
import pytorch_lightning as pl
import torch
from commands import COARSE
from composing import composed
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy

from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError
from mrl_experiments.options.check import check
from mrl_experiments.options.typed import renamed
from mrl_experiments.runs import Run, run_of
from mrl_experiments.training.module import NestedModule
from mrl_experiments.training.settled import settle
from mrl_experiments.training.train import train
from mrl_experiments.training.trainer import best_precision

QUICK = ["data.loader=torch", "data.workers=0", "data.batch_size=256", "trainer.progress=false"]


def configured(root, *overrides):
    cfg = composed("train", *COARSE, *QUICK, f"root={root}", *overrides)
    check(cfg, "train")
    return cfg


def trainer_of(root, *overrides):
    return construct(configured(root, *overrides).trainer)(run=Run(root / "runs" / "x"), loggers=[])


def test_all_arguments_of_the_trainer_are_options(tmp_path):
    arguments = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self", "logger", "callbacks"}
    assert arguments <= set(configured(tmp_path).trainer)  # loggers and callbacks are groups of their own


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("trainer.max_epochs=7", lambda trainer: trainer.max_epochs == 7),
        ("trainer.max_steps=7", lambda trainer: trainer.max_steps == 7),
        ("trainer.min_epochs=2", lambda trainer: trainer.min_epochs == 2),
        ("trainer.max_time=00:01:30:00", lambda trainer: trainer.callbacks[0].time_remaining() == 5400),
        ("trainer.max_time={hours: 2}", lambda trainer: trainer.callbacks[0].time_remaining() == 7200),
        ("trainer.fast_dev_run=2", lambda trainer: trainer.fast_dev_run == 2),
        ("trainer.overfit_batches=2", lambda trainer: trainer.limit_train_batches == 2),
        ("trainer.val_check_interval=0.5", lambda trainer: trainer.val_check_interval == 0.5),
        ("trainer.check_val_every_n_epoch=null", lambda trainer: trainer.check_val_every_n_epoch is None),
        ("trainer.gradient_clip_val=1", lambda trainer: trainer.gradient_clip_val == 1),
        ("trainer.gradient_clip_algorithm=value", lambda trainer: trainer.gradient_clip_algorithm == "value"),
        ("trainer.accumulate_grad_batches=4", lambda trainer: trainer.accumulate_grad_batches == 4),
        ("trainer.num_nodes=2", lambda trainer: trainer.num_nodes == 2),
        ("trainer.strategy=ddp", lambda trainer: isinstance(trainer.strategy, DDPStrategy)),
        ("trainer.profiler=simple", lambda trainer: isinstance(trainer.profiler, SimpleProfiler)),
        ("trainer.deterministic=warn", lambda trainer: torch.is_deterministic_algorithms_warn_only_enabled()),
        ("trainer.num_sanity_val_steps=2", lambda trainer: trainer.num_sanity_val_steps == 2),
        ("trainer.detect_anomaly=true", lambda trainer: trainer._detect_anomaly),
        ("trainer.enable_progress_bar=true", lambda trainer: trainer.progress_bar_callback is not None),
        ("trainer.enable_checkpointing=false", lambda trainer: not trainer.checkpoint_callbacks),
        (
            "trainer.plugins=[{_target_: pytorch_lightning.plugins.environments.LightningEnvironment}]",
            lambda trainer: (
                isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
                and isinstance(trainer.strategy.checkpoint_io, CheckpointIO)
            ),
        ),
        (
            "+trainer.strategy={_target_: pytorch_lightning.strategies.DDPStrategy, static_graph: true}",
            lambda trainer: trainer.strategy._ddp_kwargs == {"static_graph": True},
        ),
    ],
)
def test_an_argument_reaches_lightning(tmp_path, typed, seen):
    try:
        assert seen(trainer_of(tmp_path, typed.replace("+trainer", "++trainer")))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("typed", "now"),
    [
        ("+trainer.max_steps=3", "++trainer.max_steps=3"),
        ("logger.mode=offline", "++logger.wandb.mode=offline"),
        ("++logger.project=x", "++logger.wandb.project=x"),
        ("+trainer.strategy.x=1", "+trainer.strategy.x=1"),
        ("logger=csv", "logger=csv"),
        ("data.augment.centre=0.9", "data.augment.center=0.9"),
        ("trainer.max_steps=3", "trainer.max_steps=3"),
    ],
)
def test_what_was_typed_before_still_means_the_same(typed, now):
    assert renamed(typed) == now


def test_epochs_by_either_name_are_the_same_run(tmp_path, monkeypatch):
    cfg = configured(tmp_path, "trainer.max_epochs=3")
    settle(cfg)
    assert cfg == configured(tmp_path, "epochs=3")
    with pytest.raises(UserError, match=r"without trainer\.max_steps"):
        settle(configured(tmp_path, "trainer.max_epochs=-1"))
    monkeypatch.setattr("mrl_experiments.training.settled.typed_keys", lambda: {"epochs"})
    with pytest.raises(UserError, match="differ"):
        settle(configured(tmp_path, "trainer.max_epochs=3", "epochs=4"))


def rates(cfg):
    with run_of(cfg).metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "lr"]
    return {int(row["step"]): float(row["value"]) for row in rows}


def test_steps_alone_end_a_training_and_its_schedule(tmp_path, capsys):
    steps = ["trainer.max_epochs=-1", "trainer.max_steps=7", "trainer.log_every_n_steps=1"]
    cfg = configured(tmp_path, *steps, "trainer.limit_val_batches=0", "trainer.profiler=simple")
    train(cfg)
    assert max(rates(cfg)) == 7 and rates(cfg)[7] == 0 and rates(cfg)[4] > 0
    assert "trained without validation" in capsys.readouterr().out


def test_fast_dev_run_leaves_nothing(tmp_path, capsys):
    train(configured(tmp_path, "trainer.fast_dev_run=true", "callbacks=[best,ema]"))
    assert "fast_dev_run=True has passed" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_overfitting_sees_the_same_images_in_every_epoch(tmp_path, monkeypatch):
    seen, original = [], NestedModule.training_step

    def step(self, batch, batch_idx):
        seen.append((batch[0].clone(), batch[2].tolist()))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(NestedModule, "training_step", step)
    train(configured(tmp_path, "trainer.overfit_batches=2", "epochs=2"))
    first, second = seen[:2], seen[2:]
    assert len(seen) == 4 and [index for _, index in first] == [index for _, index in second]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert first[0][1] != first[1][1]


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_auto_precision_asks_the_gpu_by_either_of_its_names(accelerator, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    assert best_precision(accelerator) == "16-mixed"
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    assert best_precision(accelerator) == "bf16-mixed"


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_auto_precision_of_a_cpu_is_bfloat16_only_where_it_computes_in_it(feature, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_vnni": True, feature: False})
    assert best_precision("cpu") == "32-true"
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"cpu_name": "bf16", feature: True})
    assert best_precision("cpu") == "bf16-mixed"
