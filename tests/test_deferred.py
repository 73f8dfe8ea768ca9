"""Which modules commands import: those they use, since each costs every start of every process."""

import subprocess
import sys

import pytest
from commands import ROOT

DEAR = {
    *("torch", "pytorch_lightning", "torchmetrics", "timm", "torchvision", "transformers", "ffcv", "numba"),
    *("faiss", "scipy", "sklearn", "pandas", "matplotlib", "wandb", "vl_convert", "rich", "jinja2"),
    *("fastapi", "uvicorn", "prometheus_client", "openai"),
}
PROGRAM = """
import os, sys, traceback
from mrl_experiments.deferred import defer_metrics
defer_metrics()

def apart(work):
    "Do it in a fork, whose imports stay its own; return whether it succeeded."
    if os.fork() == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    return os.wait()[1] == 0

def imported(what):
    print(what, *sorted({{name.partition(".")[0] for name in sys.modules}} & {dear}), sep=",")

def train():
    import mrl_experiments.training.train, mrl_experiments.data.images.image_folder
    imported("train")
    metrics()

def metrics():
    import pytorch_lightning, torch, torchmetrics
    assert "scipy" not in sys.modules
    metrics = torchmetrics.MetricCollection([torchmetrics.Accuracy("multiclass", num_classes=3)])
    found = metrics(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))
    from torchmetrics.functional import accuracy
    assert isinstance(metrics["MulticlassAccuracy"], torchmetrics.Metric)
    print("accuracy", float(found["MulticlassAccuracy"]), sep=",")

def evaluate():
    import mrl_experiments.evaluate, mrl_experiments.evaluations.knn, mrl_experiments.reductions.prefix
    imported("evaluate")

def report():
    import mrl_experiments.report.write
    imported("report")

from mrl_experiments.cli import embed, evaluate as _, export, generate, report as _, serve, train as _
imported("before anything is known")
import mrl_experiments.first_line
imported("the first line")
ended = [apart(report)]
import torch  # once for both: each may
ended += [apart(evaluate), apart(train)]
sys.exit(not all(ended))
"""
COMMANDS = {
    "before anything is known": set(),
    "the first line": set(),
    "evaluate": {"torch", "faiss"},
    "report": {"jinja2", "pandas", "scipy", "vl_convert"},
    "train": {"torch", "pytorch_lightning", "torchmetrics", "matplotlib", "rich"}
    | {"timm", "torchvision", "wandb"},  # timm imports the other two
}


@pytest.fixture(scope="module")
def shown():
    """What a process said that imports as the commands do, each apart: {command: what follows}."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(dear=DEAR)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {what: {*rest} for what, *rest in (line.split(",") for line in done.stdout.splitlines())}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_a_command_imports_what_it_uses(command, shown):
    assert shown[command] <= COMMANDS[command]


@pytest.mark.slow
def test_metrics_are_loaded_when_one_is_used(shown):
    assert shown["accuracy"] == {"0.75"}
