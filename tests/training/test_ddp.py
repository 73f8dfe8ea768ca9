"""Two real processes on the CPU, started by Lightning and by torchrun."""

import csv
import json
import os
import re
import subprocess
import sys
import time

import pytest
from commands import ROOT, run

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


def test_ffcv_feeds_two_processes(tmp_path):
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    done = run("train.py", *COMMON, *TWO, f"root={tmp_path}", "data.loader=ffcv")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / RUN / "finished.json").read_text())["validation"]) > 1


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
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    failed = float(re.search(r"rank trouble at ([\d.]+)\.", done.stderr)[1])
    assert time.monotonic() - failed < 30
