"""From captions to result rows: two towers trained, both sides embedded, evaluated together."""

import csv
import shutil

import numpy as np
import pytest
import torch
from captioned import CLASSES, write_table
from composing import composed

pytest.importorskip("transformers", reason="transformers is not installed")

from mrl_experiments.build import load_method, trusted_config
from mrl_experiments.construct import construct
from mrl_experiments.embed import embed
from mrl_experiments.embeddings import META, load
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import evaluate
from mrl_experiments.report.write import write_report
from mrl_experiments.results import read_rows
from mrl_experiments.runs import find_runs

DATASET = "image_text_folder"


def configured(name, *overrides):
    return composed(name, *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory, trained_runs):
    """A run of one epoch, all its splits embedded."""
    root, run = tmp_path_factory.mktemp("captioned") / "outputs", trained_runs["captions"]
    shutil.copytree(run.folder, root / "runs" / run.name)
    embed(configured("embed", "run=*", f"root={root}"))
    return root


def run_in(root):
    (run,) = find_runs(root, "*")
    return run


def evaluated(root, evaluation, *overrides):
    chosen = [f"evaluation={evaluation}", *overrides]
    evaluate(configured("evaluate", "run=*", f"root={root}", *chosen), evaluation, "prefix")
    return read_rows(run_in(root).results(evaluation, DATASET, "prefix"))


def test_images_and_texts_are_what_the_towers_make_of_them(root):
    run = run_in(root)
    data, method = construct(trusted_config(run).data), load_method(run)
    for split, count in (("val", 6 * len(CLASSES)), ("val_text", 2 * len(CLASSES))):
        stored = load(run.embeddings(DATASET, split))
        assert stored.features.shape == (count, 16)
        (inputs, labels, index) = next(iter(data.dataloader(split)))
        with torch.no_grad():
            np.testing.assert_allclose(stored.features[index], method.embed(inputs), atol=1e-4)
        assert stored.labels[index].tolist() == labels.tolist()
    texts = load(run.embeddings(DATASET, "val_text"))
    captions = [text for label in data.captioned.labels("val") for text in data.captioned.captions[label]]
    with torch.no_grad():
        for row in (0, 7, 23):  # one text at a time, without padding behind it
            (tokens,) = data.tokenizer.encode([captions[row]])
            z = method.embed(torch.from_numpy(tokens[: data.length])[None])
            np.testing.assert_allclose(texts.features[row], z[0], atol=1e-4)
        assert captions[7] in data.captioned.captions[texts.labels[7]]


def test_texts_and_images_of_a_split_have_its_labels(root):
    run = run_in(root)
    for split in ("train", "val"):
        images, texts = (load(run.embeddings(DATASET, name)) for name in (split, f"{split}_text"))
        assert sorted(set(images.labels.tolist())) == sorted(set(texts.labels.tolist()))


@pytest.mark.parametrize("evaluation", ["zero_shot", "cross_modal", "cosine_span"])
def test_images_are_compared_with_the_texts_of_their_own_split(root, evaluation):
    rows = evaluated(root, evaluation)
    assert {row.split for row in rows} == {"val"}
    assert {(row.dim, row.trained) for row in rows} == {(8, True), (12, False), (16, True)}
    rows = evaluated(root, evaluation, "queries=[train,val]")
    assert {row.split for row in rows} == {"train", "val"}


@pytest.mark.slow
def test_the_report_shows_each_size_beside_the_papers(root):
    for evaluation in ("zero_shot", "cross_modal", "cosine_span"):
        evaluated(root, evaluation)
    counterparts = {DATASET: {"dataset": ["imagenet1k", "align"], "splits": {"val": "pairs"}}}
    out = root / "report"
    assert write_report([f"{root}/runs/*/results/*.csv"], out, root / "runs", counterparts) == []
    name = f"{DATASET}-val-dual_encoder"
    sizes = {}
    for table in ("table06", "table18", "table-recall"):
        with (out / "tables" / f"{table}-{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        sizes[table] = [row["Dims"] for row in rows]
        theirs = [row for row in rows if row.get("MRL (paper)")]
        assert len(theirs) == {"table06": 4, "table18": 7, "table-recall": 0}[table]
    assert sizes["table06"] == ["8", "16", "768"] * 4
    assert sizes["table18"][:4] == ["8", "12", "16", "24"]  # the paper's smallest size is 12
    assert sizes["table-recall"] == ["8", "16"] * 2
    drawn = {path.stem for path in (out / "figures").glob("*.png")}
    assert {f"figure-zero-shot-{name}", f"figure-cosine-{name}"} <= drawn
    for direction in ("image_to_text", "text_to_image"):
        assert f"figure-recall-{name}-direction_{direction}" in drawn


def test_other_evaluations_search_images_unless_told_otherwise(root):
    with pytest.raises(UserError, match="label that is missing from the database"):
        evaluated(root, "knn", "evaluation.k=[1]")  # in train, which here shows other labels
    rows = evaluated(root, "knn", "evaluation.k=[1]", "database=val_text", "dims=[16]")
    both_ways = evaluated(root, "cross_modal", "dims=[16]", "queries=[val]")
    (recall,) = [
        row.value
        for row in both_ways
        if (row.split, row.dim, row.metric) == ("val", 16, "recall@1")
        and row.setting == {"direction": "image_to_text"}
    ]
    top1 = [row.value for row in rows if (row.split, row.metric) == ("val", "top1")]
    assert top1 == [pytest.approx(recall)]


def test_a_missing_text_split_is_named_with_the_command_that_writes_it(root, tmp_path):
    shutil.copytree(root, tmp_path / "outputs")
    (run_in(tmp_path / "outputs").embeddings(DATASET, "val_text") / META).unlink()
    with pytest.raises(UserError, match=r"no embeddings of .*/val_text(.|\n)*splits=\[val_text\]"):
        evaluated(tmp_path / "outputs", "zero_shot")


def test_texts_have_no_mirror_image(root):
    with pytest.raises(UserError, match="tta=flip: image_text_folder has no such views"):
        embed(configured("embed", "run=*", f"root={root}", "tta=flip"))


def test_another_vocabulary_than_the_runs_is_refused(root, tmp_path):
    table = write_table(tmp_path, splits=("train", "val"))
    text = table.read_text().replace("picture", "painting")
    table.write_text(text)
    given = ["data=image_text_folder", f"data.root={table}", "data.vocabulary=280", "data.length=16"]
    with pytest.raises(UserError, match="is not the one that the run was trained with"):
        embed(configured("embed", "run=*", f"root={root}", *given, "data.size=32", "data.loader=torch"))
