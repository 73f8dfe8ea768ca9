"""Two real processes on the CPU, started by Lightning and by torchrun."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, need_ffcv, run, start, succeed
from PIL import Image

pytestmark = pytest.mark.slow
# A ViT has no batch statistics, so two half batches must follow one whole batch.
VIT = ["data=digits", "model=timm", "model.arch=test_vit", "+model.options.patch_size=4", "logger=csv"]
COMMON = [*VIT, "epochs=2", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "data.loader=torch"]
TWO = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]
RUN = "runs/mrl_test_vit_digits_s0"


def values(root, metric):
    with (root / RUN / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    root = tmp_path_factory.mktemp("one")
    done = run("train.py", *COMMON, f"root={root}", "data.batch_size=64")
    assert done.returncode == 0, done.stderr
    return root


def test_two_processes_follow_one(tmp_path, one_process):
    done = run("train.py", *COMMON, *TWO, f"root={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert values(tmp_path, "lr") == values(one_process, "lr")
    ours, theirs = values(tmp_path, "val/loss"), values(one_process, "val/loss")
    assert ours == pytest.approx(theirs, rel=2e-3)
    hits = [round(share * 360, 3) for share in values(tmp_path, "val/top1")]
    assert all(float(hit).is_integer() for hit in hits)  # 360 samples, each counted once


def test_torchrun_starts_it_too(tmp_path, one_process):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "train.py", *COMMON, *TWO, f"root={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert values(tmp_path, "val/loss") == pytest.approx(values(one_process, "val/loss"), rel=2e-3)


def test_what_is_read_is_told_once(tmp_path):
    for number in range(36):
        place = tmp_path / "images" / ("cat", "dog", "owl")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(place / f"{number}.png")
    shutil.copy(tmp_path / "images/cat/0.png", tmp_path / "images/dog/copy.png")
    images = ["data=image_folder", f"data.root={tmp_path}/images", "data.size=32", "model.arch=test_resnet"]
    quick = ["model=timm", "epochs=1", "logger=csv", "data.loader=torch", f"data.cache={tmp_path}/cache"]
    options = [*images, *quick, "data.batch_size=4", "trainer=ddp", "trainer.devices=2"]
    out = succeed("train.py", *options, f"root={tmp_path}")
    assert out.count("37 images in 3 classes") == out.count("are in several classes") == 1


def test_ffcv_feeds_two_processes(tmp_path):
    need_ffcv()
    done = run("train.py", *COMMON, *TWO, f"root={tmp_path}", "data.loader=ffcv")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / RUN / "finished.json").read_text())["validation"]) > 1


def rank_one(process):
    """Return the process of rank 1 once both have logged."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"LOCAL_RANK=1" in (folder / "environ").read_bytes():
                return int(folder.name)
    raise AssertionError("there is no rank 1")


def has_ended(number, seconds=10):
    """Return whether a process has gone within some seconds, or only waits to be asked for its status."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def logged(root, process):
    while not (root / RUN / "metrics.csv").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_a_rank_that_is_stopped_for_good_ends_all_after_the_timeout(tmp_path):
    options = ["epochs=1000", "trainer.timeout_minutes=1", f"root={tmp_path}"]
    process = start("train.py", *COMMON, *TWO, *options)
    logged(tmp_path, process)
    stopped = rank_one(process)
    os.kill(stopped, signal.SIGSTOP)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "did not answer for 1 minutes" in err and "Traceback" not in err
    assert has_ended(stopped)


def test_sigterm_while_processes_meet_ends_both(tmp_path):
    process = start("train.py", *COMMON, *TWO, "epochs=1000", f"root={tmp_path}")
    while True:
        assert process.poll() is None, process.communicate()
        with suppress(AssertionError):
            other = rank_one(process)
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # the first process waits for the other, which imports torch
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err
    assert has_ended(other)


def test_two_processes_resume_bit_equal_inside_an_accumulation(tmp_path):
    small = [
        *COMMON[len(VIT) :],
        *TWO,
        *VIT[:2],
        "model.arch=test_resnet",
        "model.name=test_vit",
        "logger=csv",
    ]
    small += ["trainer.accumulate_grad_batches=4", "trainer.limit_train_batches=10", "callbacks=[best,ema]"]
    kept = []
    for folder in ("whole", "stopped"):
        process = start("train.py", *small, f"root={tmp_path / folder}")
        if folder == "stopped":
            logged(tmp_path / folder, process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=120)
            assert process.returncode == 143
            process = start("train.py", *small, f"root={tmp_path / folder}")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        kept.append(torch.load(tmp_path / folder / RUN / "checkpoints/last.ckpt", weights_only=True))
        losses = values(tmp_path / folder, "train/loss")
        kept[-1] = (kept[-1]["state_dict"], kept[-1]["optimizer_states"], losses)
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_rank_ends_all_within_30_seconds_with_its_own_error(tmp_path, rank):
    broken = tmp_path / "broken_optim.py"
    broken.write_text(
        "import os, time\n"
        "from mrl_experiments.training.optim import sgd_cyclic\n"
        "def fail(module, length, **options):\n"
        f"    if os.environ.get('LOCAL_RANK', '0') == '{rank}':\n"
        "        raise ValueError(f'rank trouble at {time.monotonic()}.')\n"
        "    return sgd_cyclic(module, length, **options)\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py", *COMMON, *TWO, f"root={tmp_path}", "optim._target_=broken_optim.fail"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    failed = float(re.search(r"rank trouble at ([\d.]+)\.", done.stderr)[1])
    assert time.monotonic() - failed < 30
