"""Sweeps: what a job is started with, what comes back from it, and which GPU it gets."""

import sys
from importlib.machinery import ModuleSpec

import pytest
from commands import TINY, run
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mrl_experiments import sweeps
from mrl_experiments.sweeps import Job, note, noted_jobs, run_alone, show

QUICK = [*TINY[:-1], "epochs=1", "data.loader=torch", "data.workers=0", "data.batch_size=256"]


def hydra(launcher=sweeps.BASIC_LAUNCHER, number=0, flags=()):
    sources = [("hydra", "pkg://hydra.conf"), ("main", "/conf"), ("command-line", "/mine")]
    return OmegaConf.create({
        "runtime": {
            "config_sources": [{"provider": provider, "path": path} for provider, path in sources],
        },
        "job": {"config_name": "train", "num": number},
        "launcher": {"_target_": launcher},
        "overrides": {"task": ["seed=1"], "hydra": list(flags)},
    })  # fmt: skip


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Run a script as a job; return what comes back and what it was started with."""
    script = tmp_path / "job.py"
    script.write_text(
        "import json, os, sys\n"
        f"json.dump([sys.argv[1:], os.environ.get('{sweeps.GPUS}')], open('{tmp_path}/seen', 'w'))\n"
        f"open(os.environ['{sweeps.VALUE}'], 'w').write('0.25')\n"
        "sys.exit(3)\n"
    )

    def started(**options):
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra(**options)))
        cfg = OmegaConf.create({"root": str(tmp_path), "trainer": {"devices": 1}})
        monkeypatch.setattr(sys, "argv", [str(script), "-m"])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as of a script
        with noted_jobs():
            outcome = run_alone(cfg)
        return outcome, OmegaConf.to_container(OmegaConf.create((tmp_path / "seen").read_text()))

    return started


def test_hydras_own_flags_and_folders_reach_a_job_and_its_value_comes_back(job):
    flags = [
        "hydra.mode=MULTIRUN",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra/launcher=joblib",
    ]
    flags += ["hydra.launcher.n_jobs=2", "hydra.sweep.dir=x", "hydra.searchpath=[file:///y]"]
    outcome, (arguments, _) = job(flags=flags)
    assert outcome == (3, 0.25)
    assert arguments == [
        *("--config-name=train", "--config-path=/conf", "--config-dir=/mine"),
        *("hydra.searchpath=[file:///y]", "seed=1"),
    ]


def test_a_command_run_as_a_module_starts_its_jobs_as_that(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("mrl_experiments.cli.train", None))
    assert sweeps._program() == ["-m", "mrl_experiments.cli.train"]


def test_jobs_at_once_have_a_gpu_each(job, monkeypatch, tmp_path):
    monkeypatch.setenv(sweeps.GPUS, "4,5")
    assert job()[1][1] == "4,5"  # one after another: each has them all
    assert [job(launcher="other", number=number)[1][1] for number in (0, 1, 2)] == ["4", "5", "4"]
    with sweeps.acquire(tmp_path / "sweeps" / ".gpu-4.lock", "tests", wait=False):
        assert job(launcher="other", number=0)[1][1] == "5"


def test_one_table_shows_what_differs_between_jobs(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    with noted_jobs() as jobs:
        note(Job(["epochs=1", "seed=0"], 0, 0.5))
        note(Job(["epochs=1", "seed=1"], 2, None))
    show(jobs)
    shown = capsys.readouterr()
    assert "1 of 2 runs finished" in shown.out and "0.5" in shown.out and "failed (2)" in shown.out
    assert "epochs=1" not in shown.out and "failed with status 2: epochs=1 seed=1" in shown.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "flags"),
    [
        ("hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "loss.dim=100000,16"]),
        (
            "hydra_optuna_sweeper",
            ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "loss.dim=choice(100000,16)",
             "hydra/sweeper/sampler=grid"],
        ),
    ],
)  # fmt: skip
def test_launchers_and_sweepers_get_values_and_outlive_a_failed_job(plugin, flags, tmp_path):
    pytest.importorskip(f"hydra_plugins.{plugin}", reason="the extra sweeps is not installed")
    common = ["loss=ff", "optimized_metric=val/top1", "trainer.limit_train_batches=2", f"root={tmp_path}"]
    done = run("train.py", "-m", *QUICK, *common, *flags, timeout=900)
    assert done.returncode == 1 and "1 of 2 runs finished" in done.stdout, done.stderr
    assert "failed with status 2" in done.stderr and "Traceback" not in done.stderr
