"""Callbacks from the configuration, the metrics that they find, and the weights that they keep."""

import csv
import gc
import json

import pytest
import torch
from commands import COARSE
from composing import composed
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from mrl_experiments.build import is_averaged, load_method, trusted_config
from mrl_experiments.embed import embed
from mrl_experiments.errors import UserError
from mrl_experiments.options.check import check
from mrl_experiments.runs import refuse_other_config, run_of
from mrl_experiments.training.train import train
from mrl_experiments.training.trainer import build_callbacks, build_loggers

QUICK = ["data.loader=torch", "data.workers=0", "data.batch_size=256", "trainer.progress=false"]
CHOSEN = [
    "callbacks=[best,ema,early_stopping,throughput,lr_monitor]",
    *("callbacks.best.monitor=val/loss@24", "callbacks.best.mode=min", "callbacks.throughput.window_size=2"),
    *(
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.min_delta=1",
        "callbacks.ema.decay=0.5",
    ),
    *("epochs=9", "trainer.log_every_n_steps=1", "trainer.limit_train_batches=3", "optim.lr=0.05"),
]


def configured(root, *overrides, command="train"):
    base = [*COARSE, *QUICK] if command == "train" else []
    cfg = composed(command, *base, f"root={root}", *overrides)
    check(cfg, command)
    return cfg


class Seen(Callback):
    """Keeps the names that callbacks and schedulers can ask for."""

    names = frozenset()

    def on_train_end(self, trainer, pl_module):
        Seen.names = frozenset(trainer.callback_metrics)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("chosen")
    cfg = configured(root, *CHOSEN, f"+callbacks.mine._target_={__name__}.Seen")
    train(cfg)
    gc.collect()
    return cfg, run_of(cfg)


def rows(run):
    with run.metrics.open() as file:
        return list(csv.DictReader(file))


def of(run, metric, dim=""):
    return [float(row["value"]) for row in rows(run) if (row["metric"], row["dim"]) == (metric, dim)]


def test_every_metric_of_every_dim_is_logged_under_its_name(run):
    logged = {f"{r['metric']}@{r['dim']}" for r in rows(run[1]) if r["dim"]}
    assert logged == {
        f"{metric}@{dim}"
        for metric in ("train/loss", "train/top1", "val/loss", "val/top1", "val/top5")
        for dim in (12, 24, 48, 96)
    }
    assert logged | {"val/loss", "val/top1", "val/top5", "lr", "samples_per_s"} <= Seen.names


def test_it_stops_early_and_keeps_the_best(run):
    losses = of(run[1], "val/loss", "24")
    assert len(losses) == 3  # the first, and two that were not better by 1
    best = torch.load(run[1].checkpoint_at("best"), weights_only=True)
    assert best["global_step"] == 3 * (1 + losses.index(min(losses)))


def test_a_run_that_was_stopped_early_and_killed_is_not_trained_further(run):
    cfg, made = run
    before, summary = rows(made), made.summary()
    made.finished.unlink()
    train(cfg)
    gc.collect()
    assert rows(made) == before and made.summary() == summary


def test_averaged_weights_are_validated_and_loaded_unless_others_are_asked_for(run):
    assert json.loads(run[1].finished.read_text())["weights"] == "averaged" and is_averaged(run[1])
    kept = torch.load(run[1].checkpoint, weights_only=True)
    for weights, state in (
        (None, "state_dict"),
        ("averaged", "state_dict"),
        ("current", "current_model_state"),
    ):
        loaded = load_method(run[1], True, weights=weights).head.state_dict()
        assert all(torch.equal(value, kept[state][f"method.head.{key}"]) for key, value in loaded.items())
    assert not torch.equal(
        *(kept[state]["method.head.linear.12.weight"] for state in ("state_dict", "current_model_state"))
    )


def test_the_wanted_weights_are_embedded_and_named(run, capsys):
    for typed, name in ((["checkpoint=best"], "best"), (["weights=current"], "current"), ([], "")):
        embed(
            configured(
                run[0].root, f"run={run[1].name}", "splits=[val]", "trust=true", *typed, command="embed"
            )
        )
        folder = run[1].embeddings("digits", "val", name)
        meta = json.loads((folder / "meta.json").read_text())
        assert (meta["checkpoint"], meta["averaged"]) == (
            "best" if name == "best" else "last",
            name != "current",
        )
        assert (meta["label"] or "") == name
        shown = f"checkpoint={meta['checkpoint']}, {'current' if name == 'current' else 'averaged'} weights"
        assert shown in capsys.readouterr().out


def test_weights_and_checkpoints_that_are_not_there_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="has no such checkpoint") as refused:
        load_method(run[1], True, checkpoint="worst")
    assert "best, last" in refused.value.expected
    kept = torch.load(run[1].checkpoint, weights_only=True)
    del kept["current_model_state"]
    torch.save(kept, tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match="no averaged weights"):
        load_method(run[1], True, checkpoint=str(tmp_path / "plain.ckpt"), weights="averaged")


def test_a_callback_of_the_users_own_needs_trust_and_lightnings_do_not(run):
    with pytest.raises(UserError, match=r"callbacks\.mine\._target_.*Seen is no class"):
        trusted_config(run[1])
    assert trusted_config(run[1], [f"{__name__}.Seen"])
    again = OmegaConf.create(OmegaConf.to_container(run[0]))
    again.callbacks.other = again.callbacks.best  # another name for what conf/ has
    del again.callbacks.mine
    from mrl_experiments.trust import trusted

    assert trusted(again, run[1].config_path)


def test_throughput_tells_how_long_data_are_waited_for(run):
    waits = of(run[1], "train/data_wait")
    assert len(waits) == 9 and all(0 <= share < 1 for share in waits)
    assert min(of(run[1], "train/device/samples_per_sec")) > 0
    assert of(run[1], "lr-SGD/pg1")


def test_watching_is_no_part_of_a_runs_identity_but_averaging_is(run):
    cfg = OmegaConf.create(OmegaConf.to_container(run[0]))
    del cfg.callbacks.throughput, cfg.callbacks.lr_monitor, cfg.callbacks.best
    refuse_other_config(run[1], cfg)
    del cfg.callbacks.ema
    with pytest.raises(UserError, match=r"callbacks\.ema\.decay: 0\.5 there, None now"):
        refuse_other_config(run[1], cfg)


def test_null_leaves_one_out_and_what_is_no_callback_is_refused(tmp_path):
    cfg = configured(tmp_path, "callbacks=[best,early_stopping]", "callbacks.best=null")
    (only,) = build_callbacks(cfg, run_of(cfg))
    assert isinstance(only, EarlyStopping)
    assert build_callbacks(configured(tmp_path, "callbacks=none"), run_of(cfg)) == []
    (minutes,) = build_callbacks(configured(tmp_path, "callbacks=every_minutes"), run_of(cfg))
    assert isinstance(minutes, ModelCheckpoint) and minutes.dirpath.endswith("checkpoints")
    with pytest.raises(UserError, match=r"callbacks\.x=1"):
        build_callbacks(configured(tmp_path, "+callbacks.x=1"), run_of(cfg))


def test_several_loggers_at_once_and_one_that_lacks_its_package(tmp_path):
    csv_logger = "+logger.plain={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: null}"
    cfg = configured(tmp_path, "logger=[csv]", csv_logger, "epochs=1", "trainer.limit_train_batches=1")
    train(cfg)
    told = (run_of(cfg).folder / "lightning_logs/version_0/hparams.yaml").read_text()
    assert "macs@96" in told and "parameters" in told and "sgd_cyclic" in told
    assert (run_of(cfg).folder / "lightning_logs/version_0/metrics.csv").exists()
    with pytest.raises(UserError, match=r"logger.*no_such"):
        build_loggers(configured(tmp_path, "+logger.x._target_=no_such.Logger"), run_of(cfg))


def test_a_plateau_of_validation_lowers_the_rate_and_its_state_is_kept(tmp_path):
    plateau = ["optim=timm", "optim.schedule=plateau", "+optim.schedule_options={patience:1,threshold:10}"]
    cfg = configured(tmp_path, *plateau, "epochs=4", "trainer.limit_train_batches=1")
    train(cfg)
    state = torch.load(run_of(cfg).checkpoint, weights_only=True)["lr_schedulers"][0]
    rates = of(run_of(cfg), "lr")
    assert rates == pytest.approx([rates[0]] * 3 + [rates[0] / 10])
    assert state["last_epoch"] == 3 and state["num_bad_epochs"] == 0
