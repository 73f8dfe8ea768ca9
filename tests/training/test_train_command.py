"""The train command end to end, in this process where it can be and in others where it must."""

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import COARSE, TINY, run
from composing import composed

from mrl_experiments.build import load_method, owner
from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError
from mrl_experiments.files import write_json
from mrl_experiments.runs import Run, run_lock, run_name, run_of
from mrl_experiments.training.train import _build, _fit, train
from mrl_experiments.training.trainer import check_devices


def config(tmp_path, *overrides):
    quick = ["data.loader=torch", "data.workers=1", "trainer.limit_train_batches=4"]
    return composed("train", *COARSE, *quick, f"root={tmp_path}", *overrides)


def metrics(run_folder):
    with (run_folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_configuration_metrics_checkpoint_and_summary(tmp_path, capsys):
    train(config(tmp_path, "trainer.log_every_n_steps=3"))
    folder = tmp_path / "runs" / "mrl_tiny_digits_s0"
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "metrics.csv", "finished.json"}
    assert (folder / "checkpoints" / "last.ckpt").exists()
    rows = metrics(folder)
    assert {row["metric"] for row in rows} == {
        *("train/loss", "train/top1", "lr", "samples_per_s", "val/loss", "val/top1", "val/top5"),
    }
    summary = json.loads((folder / "finished.json").read_text())["validation"]
    dims = {row["dim"] for row in rows if row["metric"] == "val/top1"}
    assert set(summary) == dims and len(dims) > 1
    assert "next: python embed.py run=mrl_tiny_digits_s0" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    train(config(tmp_path, "epochs=1"))
    before = (tmp_path / "runs/mrl_tiny_digits_s0/metrics.csv").read_bytes()
    train(config(tmp_path, "epochs=1", "trainer.log_every_n_steps=1"))
    assert "is finished already" in capsys.readouterr().out
    assert (tmp_path / "runs/mrl_tiny_digits_s0/metrics.csv").read_bytes() == before


def test_a_note_of_another_run_does_not_finish_this_one(tmp_path):
    cfg = config(tmp_path, "epochs=1")
    with run_lock(cfg):
        theirs = {**owner(run_of(cfg).config), "seed": 7}
        write_json(run_of(cfg).finished, {"run": theirs, "validation": {"8": {"top1": 0.99}}})
    with pytest.raises(UserError, match=r"finished\.json is of another run: .*'seed': 7"):
        train(cfg)


def test_files_of_a_run_that_differs_in_one_option_are_noticed(tmp_path, capsys):
    cfg = config(tmp_path, "epochs=1")
    for changed in (cfg, config(tmp_path, "epochs=1", "optim.lr=0.01", "tag=_b")):
        train(changed)
    kept, folder, other = (tmp_path / "runs" / f"mrl_tiny_digits_s0{end}" for end in ("_kept", "", "_b"))
    folder.rename(kept)

    def put(name: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        shutil.copy(other / name, folder / name)

    put("finished.json")
    with pytest.raises(UserError, match=r"finished\.json is of another run: .*'id': "):
        train(cfg)
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        put(name)
        with pytest.raises(UserError, match=r"last\.ckpt is of another run"):
            load_method(Run(folder))
    (folder / "finished.json").unlink()
    with pytest.raises(UserError, match=r"last\.ckpt is of another run"):
        train(cfg)
    put("metrics.csv")
    (folder / "finished.json").unlink()
    path = folder / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "optimizer_states"}, path)
    with pytest.raises(UserError, match=r"last\.ckpt has no optimizer_states"):
        train(cfg)
    torch.save(content, path)
    train(cfg)
    assert "metrics.csv is not the one that the checkpoint was written with" in capsys.readouterr().out
    assert (folder / "metrics.damaged").read_bytes() == (other / "metrics.csv").read_bytes()


def test_another_configuration_of_the_same_name_is_refused(tmp_path):
    train(config(tmp_path, "epochs=1"))
    with pytest.raises(UserError, match=r"optim\.lr: 0\.\d+ there, 0\.01 now"):
        train(config(tmp_path, "epochs=1", "optim.lr=0.01"))
    train(config(tmp_path, "epochs=1", "optim.lr=0.01", "tag=_slow"))
    assert (tmp_path / "runs/mrl_tiny_digits_s0_slow/finished.json").exists()


def test_a_loss_that_becomes_nan_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"NaN or infinite at step \d+"):
        train(config(tmp_path, "optim.lr=1e30", "optim.warmup_epochs=1", "trainer.precision=32-true"))
    folder = tmp_path / "runs/mrl_tiny_digits_s0"
    assert not (folder / "finished.json").exists()
    assert not (folder / "checkpoints/last.ckpt").exists()  # there never was a good one


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["loss.dims=[16,8]"], "8 does not fit"),
        (["loss.dims=[8,4096]"], "4096 does not fit"),
        (["loss.weights=[1,2]"], r"weights=\[1\.0, 2\.0\] for"),
        (["model.arch=resnet_fifty"], "not a timm architecture"),
        (["loss=ff", "loss.dim=100000"], "100000"),
        (["data.batch_size=5000"], "exceeds the training set"),
        (["trainer.strategy=foo"], "invalid strategy"),
        (["+trainer.nonsense=1"], "nonsense"),
        (["trainer=gpu"], "no GPU") if not torch.cuda.is_available() else (["loss.dims=[0]"], "0"),
    ],
)
def test_bad_input_is_named_before_work_is_spent(tmp_path, overrides, complaint):
    with pytest.raises(UserError, match=complaint):
        train(config(tmp_path, *overrides))
    needs_data = overrides == ["data.batch_size=5000"]
    assert (tmp_path / "runs").exists() == needs_data  # nothing is written for what is refused


@pytest.mark.slow
def test_a_refused_value_is_one_message_at_once_and_leaves_nothing(tmp_path):
    done = run("train.py", f"root={tmp_path}/out", "epochs=abc", "optim.lr=-1")
    assert (done.returncode, "Traceback" in done.stderr, done.stdout) == (2, False, "")
    assert "epochs=abc" in done.stderr and "optim.lr=-1" in done.stderr
    for typed in ("model=null", "optim.learning_rate=1", "loss.dims=[8,16", "loss=foo"):
        done = run("train.py", f"root={tmp_path}/out", typed)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    done = run(
        "train.py", "-m", f"root={tmp_path}/out", "data=image_folder", "data.root=~/no such, folder (1)"
    )
    assert done.stderr.count(f"data.root={Path.home()}/no such is not a folder") == 1
    assert not (tmp_path / "out/runs").exists()


@pytest.mark.parametrize("loss", ["mrl", "mrl_e", "ff"])
@pytest.mark.parametrize("optim", ["sgd_cyclic", "adamw_cosine"])
def test_every_method_and_optimizer_learns_a_step(tmp_path, loss, optim):
    train(config(tmp_path, f"loss={loss}", f"optim={optim}", "epochs=1"))


RAMP = ["data.resolution={start: 16, end: 32, start_epoch: 0, end_epoch: null, step: 8}"]
RAMP += ["data.source.scale=4"]


def test_small_images_at_first_end_with_whole_ones_and_are_described_as_these(tmp_path, capsys):
    seen = []
    for epochs in (1, 2):
        options = [f"epochs={epochs}", f"tag=_{epochs}", "trainer.limit_train_batches=1"]
        cfg = config(tmp_path, *RAMP, *options)
        trainer, module, data = _build(cfg, run_of(cfg))
        module.method.backbone.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-1]))
        trainer.fit(module, datamodule=data)
    assert [size for size in seen if size < 32] == [16] and seen[-1] == 32
    assert len(set(re.findall(r"[\d.]+ . multiply-adds", capsys.readouterr().out))) == 1


def test_a_network_of_one_size_trains_at_that_one_and_says_so(tmp_path, capsys):
    train(config(tmp_path, *RAMP, "model.arch=test_vit", "trainer.limit_train_batches=1"))
    assert "takes images of 32 px alone" in capsys.readouterr().out


def test_gradient_accumulation_counts_optimizer_steps(tmp_path):
    train(config(tmp_path, "trainer.accumulate_grad_batches=4", "trainer.limit_train_batches=12"))
    rates = [row for row in metrics(tmp_path / "runs/mrl_tiny_digits_s0") if row["metric"] == "lr"]
    assert int(rates[-1]["step"]) == 2 * 3  # 12 batches an epoch, a step after each fourth


def test_rows_of_accumulated_batches_follow_steps(tmp_path):
    options = ["trainer.accumulate_grad_batches=3", "trainer.log_every_n_steps=3"]
    options += ["trainer.limit_train_batches=21"]
    train(config(tmp_path, *options, "epochs=1"))
    rates = [row for row in metrics(tmp_path / "runs/mrl_tiny_digits_s0") if row["metric"] == "lr"]
    assert [int(row["step"]) for row in rates] == [3, 6, 7]


def test_data_are_prepared_before_other_processes_are_started(tmp_path):
    run, order = run_of(config(tmp_path)), []
    trainer = SimpleNamespace(
        loggers=[],
        strategy=SimpleNamespace(launcher=object()),
        fit=lambda *_, **__: order.append("fit"),
    )
    data = SimpleNamespace(prepare_data=lambda: order.append("prepare"))
    _fit(trainer, None, data, run)
    assert order == ["prepare", "fit"]


def test_lightning_does_not_communicate_when_a_signal_comes(tmp_path, monkeypatch):
    cfg = config(tmp_path, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    trainer = construct(cfg.trainer, max_epochs=1)(run=run_of(cfg), loggers=[])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: pytest.fail("it communicates"))
    before, caught = signal.getsignal(signal.SIGTERM), []
    try:
        signal.signal(signal.SIGTERM, lambda *_: caught.append(True))
        trainer._signal_connector.register_signal_handlers()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [True]


@pytest.mark.slow
def test_the_command_prints_one_error_without_a_traceback(tmp_path):
    done = run("train.py", *TINY, f"root={tmp_path}", "loss.dims=[8,8]")
    assert done.returncode == 2
    assert done.stderr.startswith("error: loss.dims=[8,8]: 8 is repeated\n  expected: ")
    assert "Traceback" not in done.stderr
    debug = run("train.py", *TINY, f"root={tmp_path}", "loss.dims=[8,8]", "debug=true")
    assert debug.returncode != 0 and "Traceback" in debug.stderr
    unknown = run("train.py", "optim.learning_rate=1")
    assert unknown.returncode != 0 and "learning_rate" in unknown.stderr
    assert "Traceback" not in unknown.stderr


@pytest.mark.slow
def test_a_sweep_outlives_a_failing_run_says_so_and_skips_what_is_done(tmp_path):
    quick = ["epochs=1", "data.loader=torch", "data.workers=1", "trainer.limit_train_batches=2"]
    sweep = ["-m", *TINY, *quick, f"root={tmp_path}", "loss=ff"]
    first = run("train.py", *sweep, "loss.dim=100000,16")
    assert first.returncode == 1
    assert "1 of 2 runs finished" in first.stdout and "loss.dim=100000" in first.stderr
    finished = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/finished.json"))
    assert finished == ["ff_tiny_digits_d16_s0"]
    assert run("train.py", *sweep, "loss.dim=16").stdout.count("is finished already") == 1


@pytest.mark.parametrize(
    ("accelerator", "devices", "fits"),
    [
        ("gpu", 2, True),
        ("gpu", 3, False),
        ("auto", 3, False),
        ("gpu", [0, 1], True),
        ("gpu", [2], False),
        ("gpu", "0,1", True),
        ("gpu", "2,", False),
        ("gpu", "auto", True),
        ("gpu", -1, True),
        ("cpu", 3, True),
    ],
)
def test_more_gpus_than_there_are_are_refused(accelerator, devices, fits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if fits:
        check_devices(accelerator, devices)
    else:
        with pytest.raises(UserError, match="sees 2 GPUs"):
            check_devices(accelerator, devices)


def test_cpus_are_chosen_by_their_number_where_the_best_device_is_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_devices("auto", "auto")
    for devices in ([0], "0,1", 999):
        with pytest.raises(UserError, match=r"trainer\.devices="):
            check_devices("auto", devices)


def test_a_runs_name_is_one_folders_name(tmp_path):
    many = list(range(8, 200))
    long, other = (run_name(config(tmp_path, f"loss.dims={dims}", "tag=_b")) for dims in (many, many[1:]))
    assert len(long.encode()) <= 200 and long != other
    assert long.startswith("mrl_tiny_digits_d8-9-10") and long.endswith("_s0_b")
    assert run_name(config(tmp_path, "loss.dims=[8,16]")) == "mrl_tiny_digits_d8-16_s0"
    assert run_name(config(tmp_path, "model.name=resnet50.a1_in1k")) == "mrl_resnet50.a1_in1k_digits_s0"
    for value in ("model.name=a/b", "run_name=../x", "tag=/../../x"):
        with pytest.raises(UserError, match="cannot name"):
            run_name(config(tmp_path, value))
