"""From a checkpoint to result rows, on digits, inside one process except where ranks or exit codes matter."""

import base64
import io
import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from composing import composed
from methods import as_if_trained
from omegaconf import OmegaConf
from PIL import Image

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.build import build_method, load_method
from mrl_experiments.data.images.digits import Digits
from mrl_experiments.embed import embed
from mrl_experiments.embeddings import META, create, finalize, load, open_arrays
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import Chosen, evaluate, evaluate_all
from mrl_experiments.examples import read_sheets, write_sheets
from mrl_experiments.files import read_object
from mrl_experiments.next_commands import next_command
from mrl_experiments.results import read_rows
from mrl_experiments.runs import Run

CONF = str(Path(__file__).parents[1] / "conf")
DIMS = [8, 16, 512]


def configured(name, *overrides):
    return composed(name, *overrides)


def make_run(root, name, *overrides):
    """An untrained run, as train.py would leave it; of ResNet10-T with few channels before its features."""
    quick = ["data=digits", "data.loader=torch", "logger=csv", "+model.options.channels=[8,8,16,512]"]
    cfg = configured("train", *quick, f"run_name={name}", *overrides)
    run = Run(root / "runs" / name)
    run.checkpoint.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.to_container(cfg, resolve=True), run.config_path)
    inputs = {"channels": 1, "size": 16, "num_classes": 10}
    torch.manual_seed(0)
    method = as_if_trained(build_method(cfg, **inputs))
    state = {f"method.{key}": value for key, value in method.state_dict().items()}
    torch.save({"inputs": inputs, "state_dict": state}, run.checkpoint)
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory, data_cache):
    """Two runs, embedded."""
    root = tmp_path_factory.mktemp("outputs")
    make_run(root, "mrl", "loss=mrl", f"loss.dims={DIMS}")
    make_run(root, "ff", "loss=ff")
    embed(configured("embed", "run=*", f"root={root}"))
    return root


@pytest.fixture
def copied(root, tmp_path):
    """The same runs, to be changed by one test."""
    shutil.copytree(root, tmp_path / "outputs", ignore=shutil.ignore_patterns("results", "neighbours"))
    return tmp_path / "outputs"


def test_of_several_runs_those_without_embeddings_are_named_and_the_others_go_on(copied, capsys):
    shutil.rmtree(copied / "runs" / "ff" / "embeddings")
    cfg = configured("evaluate", "run=*", f"root={copied}")
    with pytest.raises(UserError, match="left out: ff"):
        evaluate(cfg, "trained_head", "prefix")
    assert "run ff is left out: run ff has no embeddings of digits" in capsys.readouterr().err
    assert list((copied / "runs" / "mrl" / "results").glob("*.csv"))
    shutil.rmtree(copied / "runs" / "mrl" / "embeddings")
    with pytest.raises(UserError, match="left out: ff, mrl"):
        evaluate(cfg, "trained_head", "prefix")


def evaluated(root, run, evaluation, reduction="prefix", *options):
    groups = [f"evaluation={evaluation}", f"reduction={reduction}"]
    evaluate(configured("evaluate", f"run={run}", f"root={root}", *groups, *options), evaluation, reduction)
    return read_rows(Run(root / "runs" / run).results(evaluation, "digits", reduction))


def test_embeddings_are_the_methods_in_the_order_of_the_data(root):
    run = Run(root / "runs" / "mrl")
    stored = load(run.embeddings("digits", "val"))
    images, labels = zip(*Digits().open("val"), strict=True)
    pixels = (torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = load_method(run).embed(pixels.contiguous())
    np.testing.assert_allclose(stored.features, expected, atol=1e-4)
    assert stored.labels.tolist() == list(labels)
    assert stored.trained_dims == tuple(DIMS)
    assert stored.meta["method"] == "mrl" and stored.meta["model"] == "resnet10t"


def test_complete_splits_are_skipped_and_others_rebuilt(copied):
    run = Run(copied / "runs" / "mrl")
    train, val = (run.embeddings("digits", split) for split in ("train", "val"))
    before = (train / META).stat().st_mtime_ns
    original = np.array(load(val).features)
    (val / META).unlink()  # as a killed process leaves it
    embed(configured("embed", "run=mrl", f"root={copied}"))
    assert (train / META).stat().st_mtime_ns == before
    np.testing.assert_array_equal(load(val).features, original)
    state = torch.load(run.checkpoint, weights_only=True)
    state["state_dict"]["method.backbone.net.conv1.0.weight"] *= 2
    torch.save(state, run.checkpoint)  # trained on
    embed(configured("embed", "run=mrl", f"root={copied}", "splits=[val]"))
    assert not np.array_equal(load(val).features, original)


def test_flip_is_the_mean_of_both_views(copied):
    embed(configured("embed", "run=ff", f"root={copied}", "tta=flip", "splits=[val]"))
    run = Run(copied / "runs" / "ff")
    images, _ = zip(*Digits().open("val"), strict=True)
    pixels = (torch.tensor(np.stack(images[:20])).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    method = load_method(run)
    with torch.no_grad():
        expected = (method.embed(pixels) + method.embed(pixels.flip(-1))) / 2
    np.testing.assert_allclose(
        load(run.embeddings("digits", "val", "flip")).features[:20], expected, atol=1e-4
    )


def test_rows_of_two_adaptors_stay_beside_each_other(copied, tmp_path):
    width = load(Run(copied / "runs" / "mrl").embeddings("digits", "val")).width
    digests = []
    for seed in (0, 1, 1):
        matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
        adaptor = AdaptorFile({"matrix": matrix.astype(np.float32)}, DIMS, "trained")
        adaptor.save(tmp_path / "adaptor.safetensors")
        digests.append(adaptor.digest)
        file = f"reduction.file={tmp_path / 'adaptor.safetensors'}"
        rows = evaluated(copied, "mrl", "knn", "adaptor", file, "dims=[8]")
    measured = [row.setting["adaptor"] for row in rows if row.metric == "top1"]
    assert {*measured} == {*digests} and measured.count(digests[0]) == measured.count(digests[1])


def test_linear_is_what_the_method_itself_predicts(root):

    rows = evaluated(root, "mrl", "linear")
    stored = load(Run(root / "runs" / "mrl").embeddings("digits", "val"))
    with torch.no_grad():
        logits = load_method(Run(root / "runs" / "mrl")).logits(torch.tensor(np.array(stored.features)))
    for dim, values in logits.items():
        top1 = (values.argmax(1).numpy() == stored.labels).mean()
        (row,) = [r for r in rows if (r.dim, r.metric) == (dim, "top1")]
        assert row.value == pytest.approx(top1, abs=0.003)
        assert (row.method, row.model, row.dataset, row.split, row.seed) == (
            "mrl",
            "resnet10t",
            "digits",
            "val",
            0,
        )


def test_dims_are_trained_and_interpolated_ones(root):
    rows = evaluated(root, "mrl", "knn")
    assert {(row.dim, row.trained) for row in rows} == {
        (8, True), (12, False), (16, True), (264, False), (512, True)
    }  # fmt: skip
    rows = evaluated(root, "ff", "knn")
    assert {row.dim for row in rows if row.trained} == {512}
    assert {row.dim for row in rows} >= {8, 12, 16, 24, 256, 384}
    rows = evaluated(root, "ff", "knn", "prefix", "dims=[3,40]")
    assert {row.dim for row in rows} > {3, 40, 512}


def test_draws_are_averaged(root):
    rows = evaluated(root, "ff", "linear", "random", "dims=[64]", "reduction.draws=3")
    by_setting = {str(row.setting): row.value for row in rows if row.metric == "top1"}
    draws = [by_setting[f"draw={draw}"] for draw in range(3)]
    assert by_setting[""] == pytest.approx(np.mean(draws))
    (deviation,) = [row.value for row in rows if row.metric == "top1_std"]
    assert deviation == pytest.approx(np.std(draws, ddof=1))


def test_nothing_of_val_enters_a_reduction(copied):
    """Other samples in one evaluated split change neither the fit nor the rows of another split."""
    run = Run(copied / "runs" / "ff")
    other = run.embeddings("digits", "shift")
    shutil.copytree(run.embeddings("digits", "val"), other)
    first = evaluated(copied, "ff", "linear", "svd", "dims=[8,64]")
    val = run.embeddings("digits", "val")
    stored = load(val)
    create(tmp := val.with_name("new"), len(stored), stored.width)
    features, labels = open_arrays(tmp)
    features[:] = np.random.default_rng(0).standard_normal(features.shape) * 1e3  # would turn any SVD
    labels[:] = stored.labels
    finalize(tmp, stored.heads, dict(stored.meta))
    shutil.rmtree(val)
    tmp.rename(val)
    second = evaluated(copied, "ff", "linear", "svd", "dims=[8,64]")
    assert [r for r in first if r.split == "shift"] == [r for r in second if r.split == "shift"]
    assert [r for r in first if r.split == "val"] != [r for r in second if r.split == "val"]


def test_heads_need_no_training_embeddings(copied):
    expected = evaluated(copied, "mrl", "linear")
    shutil.rmtree(Run(copied / "runs" / "mrl").embeddings("digits", "train"))
    assert evaluated(copied, "mrl", "linear") == expected
    with pytest.raises(UserError, match="no embeddings of digits/train"):
        evaluated(copied, "mrl", "linear", "svd")
    with pytest.raises(UserError, match="no database"):
        evaluated(copied, "mrl", "knn")


def test_rows_of_other_splits_stay(copied):
    run = Run(copied / "runs" / "ff")
    shutil.copytree(run.embeddings("digits", "val"), run.embeddings("digits", "shift"))
    both = evaluated(copied, "ff", "linear")
    assert {row.split for row in both} == {"shift", "val"}
    again = evaluated(copied, "ff", "linear", "prefix", "queries=[val]")
    assert sorted(map(repr, again)) == sorted(map(repr, both))


def test_rows_that_are_not_measured_anew_stay(copied):
    first = evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[1,5]")
    more = evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[3]")
    assert {row.setting.get("k") for row in more} == {None, 1, 3, 5}
    assert {*first} < {*more}
    again = evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[1]", "dims=[16]")
    asked = {(row.dim, row.setting.get("k"), row.metric) for row in again}
    assert asked >= {(row.dim, row.setting.get("k"), row.metric) for row in more}
    others = {repr(row) for row in more if (row.dim, row.setting.get("k"), row.metric) != (16, 1, "top1")}
    assert others - {repr(row) for row in more if row.metric == "samples"} < {*map(repr, again)}
    assert len([row for row in again if (row.dim, row.setting.get("k"), row.metric) == (16, 1, "top1")]) == 1


def test_rows_of_replaced_embeddings_are_left_out_with_a_line(copied, capsys):
    evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[1]")
    run = Run(copied / "runs" / "mrl")
    state = torch.load(run.checkpoint, weights_only=True)
    state["state_dict"]["method.backbone.net.conv1.0.weight"] *= 2
    torch.save(state, run.checkpoint)  # trained on
    embed(configured("embed", "run=mrl", f"root={copied}"))
    capsys.readouterr()
    rows = evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[3]")
    assert {row.setting.get("k") for row in rows} == {None, 3}
    assert re.search(r"\d rows of before are left out", capsys.readouterr().out)
    evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[3]")
    assert "left out" not in capsys.readouterr().out


def test_the_result_is_printed_with_the_next_command_unless_quiet(copied, capsys):
    evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[1]")
    said = capsys.readouterr().out
    assert "mrl  digits/val  knn  360 samples" in said and "top-1 [%] k=1" in said
    assert f"next: {next_command('report.py', copied)}" in said
    evaluated(copied, "mrl", "knn", "prefix", "evaluation.k=[1]", "quiet=true")
    path = Run(copied / "runs" / "mrl").results("knn", "digits", "prefix")
    assert capsys.readouterr().out == f"{path}: {len(read_rows(path))} rows\n"


def test_an_evaluation_that_fails_does_not_take_the_others_along(copied, capsys):
    options = ["run=*", f"root={copied}", "dims=[8,16]"]
    names = ("trends", "knn")  # of two dims, no trend can be told
    chosen = [Chosen(configured("evaluate", *options, f"evaluation={n}"), n, "prefix") for n in names]
    with pytest.raises(UserError, match="2 of 4 evaluations failed: trends of ff, trends of mrl"):
        evaluate_all(chosen)
    said = capsys.readouterr()
    assert said.err.count("error: ") == 2 and "next: " in said.out
    assert all(
        Run(copied / "runs" / name).results("knn", "digits", "prefix").exists() for name in ("ff", "mrl")
    )


def test_several_evaluations_in_one_command_read_embeddings_once(copied, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("mrl_experiments.evaluate.load", lambda folder: opened.append(folder) or load(folder))
    options = ["run=mrl", f"root={copied}", "dims=[8,16]"]
    chosen = []
    for name, reduction in itertools.product(("knn", "trained_head"), ("prefix", "svd")):
        cfg = configured("evaluate", *options, f"evaluation={name}", f"reduction={reduction}")
        chosen.append(Chosen(cfg, name, reduction))
    evaluate_all(chosen)
    assert len(opened) == len({*opened})
    results = Run(copied / "runs" / "mrl").folder / "results"
    assert {path.name for path in results.iterdir()} == {
        f"{name}-digits-{reduction}.csv" for name in ("knn", "linear") for reduction in ("prefix", "svd")
    }
    assert "knn  svd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run=mlr"], r"run=mlr matches no run(.|\n)*ff\n *mrl"),
        (["queries=[test]"], r"no embeddings of digits/test(.|\n)*one of \['train', 'val'\]"),
        (["data=kanji4k"], r"no embeddings of kanji4k(.|\n)*one of \['digits'\]"),
        (["database=gallery"], "no embeddings of digits/gallery"),
        (["variant=flip"], "with variant=flip"),
        (["dims=[8,513]"], r"\[513\] not in the stored embeddings(.|\n)*1 to 512"),
        (["evaluation=knn", "evaluation.k=[2000]"], "k=2000 neighbours in a database of 1437"),
    ],
)
def test_bad_input_of_evaluate(root, options, message):
    cfg = configured("evaluate", f"root={root}", "run=mrl", *options)
    with pytest.raises(UserError, match=message):
        evaluate(cfg, "linear", "prefix")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["splits=[val,tset]"], r"digits has no tset(.|\n)*train, val"),
        (["run=x*"], "matches no run"),
    ],
)
def test_bad_input_of_embed(root, options, message):
    with pytest.raises(UserError, match=message):
        embed(configured("embed", f"root={root}", "run=mrl", *options))


def test_the_precision_that_was_used_is_stored_and_auto_takes_what_is_complete(copied, monkeypatch):
    monkeypatch.setattr("mrl_experiments.embed.best_precision", lambda accelerator: "bf16-mixed")
    meta = Run(copied / "runs" / "mrl").embeddings("digits", "val") / META
    options = ["run=mrl", f"root={copied}", "splits=[val]", "trainer.precision=auto"]
    embed(configured("embed", *options, "overwrite=true"))
    assert read_object(meta)["precision"] == "bf16-mixed"
    before = meta.stat().st_mtime_ns
    monkeypatch.setattr("mrl_experiments.embed.best_precision", lambda accelerator: "32-true")
    embed(configured("embed", *options))
    assert meta.stat().st_mtime_ns == before
    embed(configured("embed", *options[:-1], "trainer.precision=32-true"))
    assert read_object(meta)["precision"] == "32-true"


@pytest.mark.slow
def test_two_processes_write_the_same_array(copied):
    one = load(Run(copied / "runs" / "mrl").embeddings("digits", "val"))
    expected, labels = np.array(one.features), one.labels
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    done = run("embed.py", f"root={copied}", "run=mrl", "splits=[val]", "overwrite=true", *ranks)
    assert done.returncode == 0, done.stderr
    two = load(Run(copied / "runs" / "mrl").embeddings("digits", "val"))
    np.testing.assert_allclose(two.features, expected, atol=1e-4)
    np.testing.assert_array_equal(two.labels, labels)


@pytest.mark.slow
def test_commands_end_with_one_clear_error_or_a_row_file(copied):
    failed = run("evaluate.py", f"root={copied}", "run=nothing")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: run=nothing matches no run") and "Traceback" not in failed.stderr
    assert "Traceback" in run("evaluate.py", f"root={copied}", "run=nothing", "debug=true").stderr
    several = ["evaluation=[knn,retrieval]", "evaluation.retrieval.k=[10]"]
    swept = run("evaluate.py", "-m", f"root={copied}", "run=*", *several, "reduction=svd,jl")
    assert swept.returncode == 0, swept.stderr
    rows = read_rows(Run(copied / "runs" / "mrl").results("retrieval", "digits", "svd"))
    assert "mAP@10" in {row.metric for row in rows} and "mAP@25" not in {row.metric for row in rows}
    for name in ("ff", "mrl"):
        files = {path.name for path in (copied / "runs" / name / "results").iterdir()}
        assert files >= {f"{e}-digits-{r}.csv" for e in ("knn", "retrieval") for r in ("svd", "jl")}


def test_a_runs_label_is_in_its_rows_and_an_older_run_has_none(copied):
    make_run(copied, "boosted", "loss=mrl", "label=weights/8boost")
    embed(configured("embed", "run=boosted", f"root={copied}", "splits=[val]"))
    assert {row.label for row in evaluated(copied, "boosted", "linear")} == {"weights/8boost"}
    assert {row.label for row in evaluated(copied, "mrl", "linear")} == {""}
    run = Run(copied / "runs" / "mrl")
    config = OmegaConf.load(run.config_path)
    del config["label"]  # as in a run made before there were labels
    OmegaConf.save(config, run.config_path)
    before = (run.embeddings("digits", "val") / META).stat().st_mtime_ns
    embed(configured("embed", "run=mrl", f"root={copied}", "splits=[val]"))
    assert (run.embeddings("digits", "val") / META).stat().st_mtime_ns == before


def test_examples_show_small_pictures_of_the_embedded_samples(root):
    evaluated(root, "mrl", "examples")
    (sheet,) = read_sheets(Run(root / "runs" / "mrl").results("examples", "digits", "prefix"))
    assert (sheet.run, sheet.dataset, sheet.split) == ("mrl", "digits", "val")
    assert sheet.examples.dims[0] == 8 and sheet.examples.dims[-1] == 512
    for sample in sheet.examples.samples:
        image, label = Digits().open("val" if sample.of_queries else "train")[sample.row]
        picture = Image.open(io.BytesIO(base64.b64decode(sample.picture.partition(",")[2])))
        assert (
            sample.name == str(label) and np.abs(np.asarray(picture) - image[..., 0].astype(int)).max() < 40
        )
    other = replace(sheet, split="other")
    path = Run(root / "runs" / "mrl").results("examples", "digits", "prefix")
    write_sheets(path, [sheet, other])
    evaluated(root, "mrl", "examples", "prefix", "dims=[8,16]")
    kept = read_sheets(path)
    assert kept[0] == other and (kept[1].split, kept[1].examples.dims) == ("val", [8, 16])


def test_examples_of_data_that_are_gone_or_others_have_no_pictures_and_say_why(copied, capsys):
    run = Run(copied / "runs" / "mrl")
    config = OmegaConf.load(run.config_path)
    config.data.source.seed = 1  # another split of the same digits
    OmegaConf.save(config, run.config_path)
    evaluated(copied, "mrl", "examples")
    (sheet,) = read_sheets(run.results("examples", "digits", "prefix"))
    assert not any(sample.picture or sample.text for sample in sheet.examples.samples)
    assert "examples have neither pictures nor texts" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_share_the_queries_and_file_the_same_rows(tmp_path):
    random = np.random.default_rng(0)
    centres = random.normal(size=(30, 64))
    for name, count in (("queries", 250), ("base", 1000)):
        labels = random.integers(30, size=count)
        vectors = (centres[labels] + 2 * random.normal(size=(count, 64))) * np.arange(1, 65) ** -0.5
        np.savez(tmp_path / f"{name}.npz", embeddings=vectors.astype("f4"), labels=labels)
    options = [f"embeddings={tmp_path / 'queries.npz'}", f"database={tmp_path / 'base.npz'}"]
    options += ["evaluation=[knn,retrieval,adaptive_retrieval]", "names.dims=[16,32,64]", "quiet=true"]
    found = []
    for name, ranks in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        done = run("evaluate.py", f"root={tmp_path / name}", *options, *ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("knn-") == 1  # the second process prints nothing
        files = sorted((tmp_path / name).rglob("results/*.csv"))
        rows = [row for file in files for row in read_rows(file)]
        found.append([row for row in rows if "latency" not in row.metric and row.metric != "build_seconds"])
    assert len(found[0]) > 300 and found[0] == found[1]
    failed = run("evaluate.py", f"root={tmp_path / 'two'}", *options, *ranks, "evaluation.knn.k=[5000]")
    assert failed.returncode == 2 and failed.stderr.count("k=5000 neighbours") == 1
