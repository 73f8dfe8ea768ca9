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
IMPORTED = """
import sys
from mrl_experiments.deferred import defer_metrics
defer_metrics()
{code}
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {dear}))
"""
COMMANDS = {
    "before anything is known": (
        "from mrl_experiments.cli import embed, evaluate, export, generate, report, serve, train",
        set(),
    ),
    "the first line": ("import mrl_experiments.first_line", set()),
    "evaluate": (
        "import mrl_experiments.evaluate, mrl_experiments.evaluations.knn, mrl_experiments.reductions.prefix",
        {"torch", "faiss"},
    ),
    "report": (
        "import mrl_experiments.report.write",
        {"jinja2", "pandas", "scipy", "vl_convert"},
    ),
    "train": (
        "import mrl_experiments.training.train, mrl_experiments.data.images.image_folder",
        {"torch", "pytorch_lightning", "torchmetrics", "matplotlib", "rich"}
        | {"timm", "torchvision", "wandb"},  # timm imports the other two
    ),
}


def imported(code):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(code=code, dear=DEAR)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_what_it_uses(command):
    code, used = COMMANDS[command]
    assert imported(code) <= used


def test_metrics_are_loaded_when_one_is_used():
    code = """
import pytorch_lightning, torch, torchmetrics
assert "scipy" not in sys.modules
metrics = torchmetrics.MetricCollection([torchmetrics.Accuracy("multiclass", num_classes=3)])
print(float(metrics(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))["MulticlassAccuracy"]))
from torchmetrics.functional import accuracy
assert isinstance(metrics["MulticlassAccuracy"], torchmetrics.Metric)
"""
    assert "0.75" in imported(code)
