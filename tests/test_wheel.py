"""A wheel in an environment of its own: the commands work from an empty folder, without the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from commands import ROOT

TINY = ["data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=1"]
SHORT = ["trainer.limit_train_batches=2", "data.loader=torch", "data.workers=0"]
RUN = "mrl_tiny_digits_s0"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes into the tree
    source.mkdir()
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Return the bin/ of an environment with the wheel and the packages that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip("--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    packages = next(folder.glob("lib/python*/site-packages"))
    # Where these have a .pth file of their own, to a checkout, it is not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def call(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    cache = tmp_path_factory.mktemp("cache")

    def called(command, *options):
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [environment / command, *options],
            cwd=folder, env=variables | {"MRL_DATA": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    called.folder = folder
    return called


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_every_file_of_the_package_and_of_conf(wheel):
    held = {name.removeprefix("mrl_experiments/") for name in zipfile.ZipFile(wheel).namelist()}
    package = ROOT / "src" / "mrl_experiments"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    files |= {f"conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in ROOT.glob("conf/**/*.yaml")}
    assert {name for name in files if "__pycache__" not in name} <= held


def test_the_commands_run_one_after_the_other(call):
    call("mrl-train", *TINY, *SHORT)
    call("mrl-embed", f"run={RUN}", "splits=[train,val]")
    call("mrl-evaluate", f"run={RUN}", "evaluation=knn")
    call("mrl-report")
    assert "1-NN" in (call.folder / "outputs" / "report" / "tables.md").read_text()
    assert "prompt" in call("mrl-generate", "--cfg", "job", "run=x")
    code = "import mrl_experiments, sys; sys.exit(not mrl_experiments.__file__.startswith(sys.prefix))"
    call("python", "-c", code)


def test_jobs_of_a_sweep_and_ranks_start_the_same_command_with_modules_of_the_users_own(call):
    (call.folder / "mine.py").write_text(
        "import timm\n\n\ndef Net(**options):\n"
        "    return timm.create_model('test_resnet', num_classes=0, in_chans=1, **options)\n"
    )
    common = ["model=module", "model.name=mine", "model.module._target_=mine.Net", "trainer.accelerator=cpu"]
    shown = call("mrl-train", "-m", "data=digits", *SHORT, *common, "logger=csv", "epochs=1", "seed=0")
    assert "1 of 1 runs finished" in shown
    call("mrl-train", *TINY, *SHORT, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "seed=2")
    assert (call.folder / "outputs" / "runs" / "mrl_tiny_digits_s2" / "finished.json").exists()
