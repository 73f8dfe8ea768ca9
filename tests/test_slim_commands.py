"""Slimmable networks through all four commands, in processes of their own."""

import csv
import signal
import time

import pytest
import torch
from commands import TINY, run, start

from mrl_experiments.embeddings import load
from mrl_experiments.results import read_rows
from mrl_experiments.runs import Run

pytestmark = pytest.mark.slow
SMALL = ["data.source.scale=2", "epochs=1", "trainer.limit_train_batches=12", "trainer.precision=32-true"]
TRAIN = [*TINY, *SMALL, "loss=slim", "data.loader=torch", "data.workers=1", "trainer.log_every_n_steps=1"]
UNIVERSAL = [*TRAIN, "loss.mode=universal"]
SLIM, US = "slim_tiny_digits_s0", "slim_universal_tiny_digits_s0"
SIZES = {"@w0.25": 24, "@w0.5": 48, "@w0.75": 72, "": 96}


def succeed(script, *overrides):
    done = run(script, *overrides)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One run in each mode; two processes train the switchable one."""
    root = tmp_path_factory.mktemp("outputs")
    two = ["trainer=ddp", "trainer.devices=2", "data.batch_size=32"]
    succeed("train.py", *TRAIN, *two, f"root={root}")
    succeed("train.py", *UNIVERSAL, f"root={root}")
    return root


@pytest.fixture(scope="module")
def evaluated(root):
    succeed("embed.py", "run=slim*", "splits=[train,val]", f"root={root}")
    succeed("evaluate.py", "-m", "run=slim*", "evaluation=linear,knn", f"root={root}")
    return root


def validated(root, name):
    """What the trained network itself scored on `val`, by size."""
    summary = Run(root / "runs" / name).summary()
    return {int(dim): values["top1"] for dim, values in summary["validation"].items()}


def measured(root, name, evaluation, metric, label):
    rows = read_rows(Run(root / "runs" / name).results(evaluation, "digits", "prefix"))
    wanted = [row for row in rows if row.split == "val" and row.metric == metric and row.label == label]
    return {row.dim: row for row in wanted if str(row.setting) in ("", "k=1")}


@pytest.mark.parametrize("name", [SLIM, US])
def test_embed_writes_one_array_a_width(evaluated, name):
    folder = evaluated / "runs" / name / "embeddings" / "digits"
    written = {path.name for path in folder.glob("[!.]*")}
    assert written == {f"{s}{w}" for s in ("train", "val") for w in SIZES}
    arrays = [load(folder / f"val{variant}") for variant in SIZES]
    assert [array.features.shape for array in arrays] == [(360, size) for size in SIZES.values()]
    assert all((array.labels == arrays[0].labels).all() for array in arrays)
    macs = [array.meta["macs"] for array in arrays]
    assert macs == sorted(macs) and macs[0] < 0.12 * macs[-1]


@pytest.mark.parametrize("name", [SLIM, US])
def test_rows_tell_the_protocols_apart(evaluated, name):
    truncated = measured(evaluated, name, "linear", "top1", "")
    native = measured(evaluated, name, "linear", "top1", "native widths")
    assert {12, 24, 48, 96} <= set(truncated) and list(native) == [24, 48, 72, 96]
    assert {dim for dim, row in truncated.items() if row.trained} == {96}
    assert all(row.trained for row in native.values())
    values = {dim: row.value for dim, row in native.items()}
    assert values == pytest.approx(validated(evaluated, name), abs=0.003)
    nll, native_nll = (measured(evaluated, name, "linear", "nll", label) for label in ("", "native widths"))
    assert native_nll[96].value == nll[96].value
    assert abs(native_nll[24].value - nll[24].value) > 1e-3
    neighbours = measured(evaluated, name, "knn", "top1", "native widths")
    assert list(neighbours) == [24, 48, 72, 96] and neighbours[24].value > 0.2  # ten classes


@pytest.mark.parametrize("name", [SLIM, US])
def test_costs_are_those_of_the_network_at_each_width(evaluated, name):
    folder = evaluated / "runs" / name / "embeddings" / "digits"
    native = measured(evaluated, name, "linear", "network_macs", "native widths")
    truncated = measured(evaluated, name, "linear", "network_macs", "")
    for variant, size in SIZES.items():
        assert native[size].value == load(folder / f"val{variant}").meta["macs"] + size * 10
    full = load(folder / "val").meta["macs"]
    assert all(row.value == full + dim * 10 for dim, row in truncated.items())


def test_report_shows_both_protocols_beside_the_paper(evaluated):
    succeed("report.py", f"root={evaluated}", "+counterparts.digits.dataset=imagenet1k")
    folder = evaluated / "report"
    with (folder / "tables/table01-digits-val-tiny.csv").open() as file:
        table = {row["Dims"]: row for row in csv.DictReader(file)}
    with (folder / "tables/table01-cost-digits-val-tiny.csv").open() as file:
        costs = {(row["Method"], row["Dims"]): row for row in csv.DictReader(file)}
    for name, method in ((SLIM, "Slim. Net"), (US, "US-Net")):
        for label, line in (("", f"{method}, truncated"), ("native widths", f"{method}, native widths")):
            for dim, row in measured(evaluated, name, "linear", "top1", label).items():
                if str(dim) in table and table[str(dim)][line]:
                    assert float(table[str(dim)][line]) == pytest.approx(row.value, rel=1e-5)
            assert table["96"][line] and table["24"][line]
            macs = measured(evaluated, name, "linear", "network_macs", label)[24].value
            shown = costs[line, "24"]["cost per prediction, whole network [MFLOPs]"]
            assert float(shown) == pytest.approx(macs / 1e6, rel=1e-5)
    assert float(table["2048"]["Slim. Net, truncated (paper)"]) == 0.7626
    for figure in ("figure02", "figure02-cost", "figure03"):
        assert (folder / f"figures/{figure}-digits-val-tiny.svg").exists()
    page = (folder / "index.html").read_text()
    assert "Slim. Net, truncated" in page and "US-Net, native widths" in page


def test_a_killed_universal_run_ends_with_the_weights_of_one_that_was_not(tmp_path, root):
    command = [*UNIVERSAL, f"root={tmp_path}", "trainer.checkpoint_minutes=0"]  # a checkpoint at every step
    process, metrics = start("train.py", *command), tmp_path / "runs" / US / "metrics.csv"
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_text().count(",lr,") < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run did not come so far"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Run(tmp_path / "runs" / US).finished.exists()
    succeed("train.py", *command)
    expected, resumed = (
        torch.load(Run(folder / "runs" / US).checkpoint, weights_only=True)["state_dict"]
        for folder in (root, tmp_path)
    )
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())
