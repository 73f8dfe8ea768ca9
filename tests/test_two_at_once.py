"""Two commands that write the same folder or file at once: one waits, and nothing is lost."""

import multiprocessing as mp
import os
import shutil
import time

import numpy as np
import pytest
from commands import run, start
from disks import read_only
from test_embed_evaluate import configured, make_run

from mrl_experiments import evaluate as evaluate_module
from mrl_experiments.embed import embed
from mrl_experiments.embeddings import META, load
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import evaluate
from mrl_experiments.results import read_rows
from mrl_experiments.runs import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with its embeddings, which tests copy."""
    root = tmp_path_factory.mktemp("made")
    one = make_run(root, "ff", "loss=ff")
    embed(configured("embed", "run=ff", f"root={root}"))
    return one


@pytest.fixture
def embedded(made, tmp_path):
    """A run with its embeddings."""
    return Run(shutil.copytree(made.folder, tmp_path / "runs" / made.name))


def evaluate_split(root, split):
    options = ("evaluation=linear", "reduction=prefix", f"queries=[{split}]", "dims=[8,512]")
    evaluate(configured("evaluate", "run=ff", f"root={root}", *options), "linear", "prefix")


def test_evaluations_of_several_splits_at_once_lose_no_rows(embedded, tmp_path, monkeypatch):
    splits = ["val", "second", "third", "fourth"]
    for split in splits[1:]:
        shutil.copytree(embedded.embeddings("digits", "val"), embedded.embeddings("digits", split))

    def read_slowly(path):
        rows = read_rows(path)
        time.sleep(0.2)  # so that without a lock all would have read before any has written
        return rows

    evaluate_split(tmp_path, "val")
    monkeypatch.setattr(evaluate_module, "read_rows", read_slowly)
    context = mp.get_context("fork")
    processes = [context.Process(target=evaluate_split, args=(tmp_path, split)) for split in splits[1:]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = read_rows(embedded.results("linear", "digits", "prefix"))
    assert {row.split for row in rows} == {*splits}
    values = [sorted((r.dim, r.metric, r.value) for r in rows if r.split == split) for split in splits]
    assert values.count(values[0]) == len(splits)


def test_a_damaged_file_of_rows_ends_the_command_before_any_work(embedded, tmp_path, monkeypatch):
    evaluate_split(tmp_path, "val")
    path = embedded.results("linear", "digits", "prefix")
    path.write_text("run,method\n")
    monkeypatch.setattr(evaluate_module, "_rows", None)  # would fail
    with pytest.raises(UserError, match=rf"{path.name} is no file of result rows"):
        evaluate_split(tmp_path, "val")
    assert path.read_text() == "run,method\n"
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file")
    with pytest.raises(UserError, match="a file stands where a folder should be"):
        evaluate_split(tmp_path, "val")


def exchange(one, other):
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_folders_of_embeddings_that_were_exchanged_are_refused(embedded, tmp_path):
    evaluate_split(tmp_path, "val")
    train, val = (embedded.embeddings("digits", split) for split in ("train", "val"))
    exchange(train, val)
    with pytest.raises(UserError, match="val holds embeddings of ff, digits/train"):
        evaluate_split(tmp_path, "val")
    exchange(train, val)
    other = make_run(tmp_path, "mrl", "loss=mrl")
    embed(configured("embed", "run=mrl", f"root={tmp_path}", "splits=[val]"))
    exchange(val, other.embeddings("digits", "val"))
    with pytest.raises(UserError, match="val holds embeddings of mrl, digits/val"):
        evaluate_split(tmp_path, "val")
    exchange(val, other.embeddings("digits", "val"))
    embedded.folder.rename(tmp_path / "runs" / "other")  # a renamed run is still itself
    Run(tmp_path / "runs" / "other").folder.rename(embedded.folder)
    evaluate_split(tmp_path, "val")


def test_damaged_embeddings_are_written_again_by_the_same_command(embedded, tmp_path, capsys):
    val = embedded.embeddings("digits", "val")
    expected = np.array(load(val).features)
    for name in ("heads.safetensors", "labels.npy", "features.npy", META):
        path = val / name
        path.write_bytes(path.read_bytes()[:-9])
        embed(configured("embed", "run=ff", f"root={tmp_path}", "splits=[val]"))
        assert f"{name}" in capsys.readouterr().out
        np.testing.assert_array_equal(load(val).features, expected)


@pytest.mark.slow
def test_two_embeddings_at_once_are_written_once(tmp_path):
    make_run(tmp_path, "ff", "loss=ff")
    processes = [start("embed.py", "run=ff", f"root={tmp_path}") for _ in range(3)]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    text = "".join(out for out, _ in ended)
    for split in ("train", "val"):
        folder = Run(tmp_path / "runs" / "ff").embeddings("digits", split)
        assert text.count(f"{folder}: {len(load(folder)):,} embeddings") == 1
        assert text.count(f"{folder}: complete") == 2
    assert not [path for path in folder.parent.iterdir() if path.suffix in (".part", ".old")]


@pytest.mark.slow
def test_a_run_that_can_only_be_read_is_reported_and_evaluated_nowhere(tmp_path):
    tiny = ["data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=1"]
    command = [*tiny, "data.loader=torch", "data.workers=1"]
    root = tmp_path / "outputs"
    assert run("train.py", *command, f"root={root}").returncode == 0
    (lock,) = root.glob("runs/*/.lock")
    lock.unlink()
    with read_only(root, tmp_path / "seen") as seen:
        done = run("train.py", *command, f"root={seen}")
        assert done.returncode == 0 and "is finished already" in done.stdout, done.stderr
        for script, *options in (
            ("train.py", *command, "seed=1"),
            ("train.py", *command, "epochs=2", "trainer=cpu"),
            ("embed.py", "run=*"),
        ):
            failed = run(script, *options, f"root={seen}")
            assert failed.returncode == 2 and failed.stderr.startswith("error: "), failed.stderr
    (finished,) = root.glob("runs/*/finished.json")
    for content in ("", "{}", '{"validation": 3}', "[]", "\0"):
        finished.write_text(content)
        with pytest.raises(UserError, match=r"finished\.json is damaged"):
            Run(finished.parent).summary()


def test_all_that_embedding_and_evaluating_write_has_the_rights_of_the_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("MRL_DATA", str(tmp_path / "data"))
    before = os.umask(0o027)
    try:
        make_run(tmp_path, "ff", "loss=ff")
        embed(configured("embed", "run=ff", f"root={tmp_path}"))
        evaluate(configured("evaluate", "run=ff", f"root={tmp_path}", "evaluation=knn"), "knn", "prefix")
    finally:
        os.umask(before)
    written = [path for path in tmp_path.rglob("*") if path != tmp_path]
    assert len(written) > 20
    wrong = [path for path in written if path.stat().st_mode & 0o777 != (0o750 if path.is_dir() else 0o640)]
    assert wrong == []
