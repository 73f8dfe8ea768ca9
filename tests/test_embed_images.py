"""Which images a run may embed: its own unchanged, others under their own name; classes go by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from composing import composed
from methods import as_if_trained
from omegaconf import OmegaConf, open_dict
from PIL import Image

from mrl_experiments.build import build_method, trusted_config
from mrl_experiments.construct import construct
from mrl_experiments.data.images.image_data import LATER
from mrl_experiments.embed import embed
from mrl_experiments.embeddings import META, load
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import evaluate
from mrl_experiments.results import read_rows
from mrl_experiments.runs import Run

CONF = str(Path(__file__).parents[1] / "conf")
SMALL = ["data=image_folder", "data.size=16", "data.loader=torch", "data.workers=0", "data.batch_size=8"]
SMALL += ["data.source.val_share=0.4"]


def configured(name, *overrides):
    return composed(name, *overrides)


def paint(root, names, count=6, seed=0):
    """Make pictures of random colours, PPM files of one size."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((20, 20)).save(root / name / f"{number}.ppm")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MRL_DATA", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """An untrained run on cats, dogs and foxes, as train.py would leave it."""
    images = paint(tmp_path / "images", ["cat", "dog", "fox"])
    return make_run(tmp_path, images)


def make_run(tmp_path, images, *, before=False):
    arch = ["model=timm", "model.arch=test_resnet", "model.name=tiny", "logger=csv"]
    cfg = configured("train", *SMALL, *arch, f"data.root={images}", "run_name=mine")
    if before:
        with open_dict(cfg):
            del cfg.data.source.split
    run = Run(tmp_path / "outputs" / "runs" / "mine")
    run.checkpoint.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.to_container(cfg, resolve=True), run.config_path)
    data = construct(cfg.data)
    data.prepare_data()
    inputs = {**data.inputs, "num_classes": data.num_classes}
    method = as_if_trained(build_method(cfg, **inputs))
    state = {f"method.{key}": value for key, value in method.state_dict().items()}
    kept = {} if before else {"ImageData": data.state_dict()}
    torch.save({"inputs": inputs, "state_dict": state, **kept}, run.checkpoint)
    return tmp_path / "outputs"


def embedded(root, *options):
    embed(configured("embed", "run=mine", f"root={root}", *options))
    return Run(root / "runs" / "mine")


def other(images, *options):
    return [*SMALL, f"data.root={images}", *options]


def test_the_same_files_are_known_wherever_and_whenever_they_were_written(root, tmp_path, capsys):
    run = embedded(root)
    folder = run.embeddings("image_folder", "val")
    before = (folder / META).stat().st_mtime_ns
    moved = shutil.copytree(tmp_path / "images", tmp_path / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "images")
    embedded(root, *other(moved))
    assert (folder / META).stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("complete already") == 2


@pytest.mark.parametrize(
    "what",
    [*(pytest.param(what, marks=pytest.mark.slow) for what in ("replaced", "removed", "added")), "exchanged"],
)
def test_files_that_changed_are_refused_and_named(what, root, tmp_path):
    run = embedded(root)
    images = tmp_path / "images"
    before = (run.embeddings("image_folder", "val") / META).read_bytes()
    expected = {
        "replaced": r"6 changed \(dog/0\.ppm, dog/1\.ppm, dog/2\.ppm, \.\.\.\)",
        "removed": r"1 gone \(cat/3\.ppm\)",
        "added": r"1 new \(cat/new\.ppm\)",
        "exchanged": r"2 changed \(cat/0\.ppm, dog/0\.ppm\)",
    }[what]
    if what == "replaced":
        paint(images, ["dog"], seed=1)  # files of the same sizes
    elif what == "removed":
        (images / "cat" / "3.ppm").unlink()
    elif what == "added":
        shutil.copy(paint(tmp_path / "more", ["x"], seed=5) / "x" / "0.ppm", images / "cat" / "new.ppm")
    else:
        for here, there in (("cat", "t"), ("dog", "cat"), ("t", "dog")):
            (images / there).mkdir(exist_ok=True)
            shutil.move(images / here / "0.ppm", images / there / "0.ppm")
        (images / "t").rmdir()
        [path.touch() for path in images.glob("*/0.ppm")]
    for options in ([], ["overwrite=true"], ["splits=[val]"]):
        with pytest.raises(UserError, match=expected):
            embedded(root, *options)
    assert (run.embeddings("image_folder", "val") / META).read_bytes() == before
    embedded(root, "accept_changes=true")
    assert (run.embeddings("image_folder", "val") / META).read_bytes() != before


def test_training_images_never_enter_another_split(root, tmp_path):
    images = tmp_path / "images"
    trained = construct(trusted_config(Run(root / "runs" / "mine")).data).source.open("train")[0][0]
    (tmp_path / "divided").mkdir()
    paint(tmp_path / "divided" / "train", ["cat", "dog", "fox"], seed=3)
    shutil.copytree(tmp_path / "divided" / "train", tmp_path / "divided" / "val")
    shutil.copy(trained, tmp_path / "divided" / "val" / "cat" / "copied.ppm")
    with pytest.raises(UserError, match="trained on, and in another split now"):
        embedded(root, *other(tmp_path / "divided"), "accept_changes=true")
    with pytest.raises(UserError, match="trained on, and in another split now"):
        embedded(root, *other(images, "data.source.seed=5"), "accept_changes=true")


@pytest.mark.slow
def test_other_data_must_have_another_name(root, tmp_path):
    run = embedded(root)
    strangers = paint(tmp_path / "strangers", ["cat", "dog", "fox"], seed=7)
    before = {path: path.read_bytes() for path in run.folder.rglob(META)}
    with pytest.raises(UserError, match=r"image_folder are not those(.|\n)*data\.name="):
        embedded(root, *other(strangers), "splits=[val]")
    embedded(root, *other(strangers, "data.name=strangers"))
    third = paint(tmp_path / "third", ["cat", "dog", "fox"], seed=8)
    with pytest.raises(UserError, match="strangers/train holds embeddings of other data"):
        embedded(root, *other(third, "data.name=strangers"), "splits=[val]")
    embedded(root, *other(third, "data.name=strangers"))  # all of them anew
    assert all(path.read_bytes() == content for path, content in before.items())


def accuracy(root, dataset, evaluation, *options):
    chosen = [f"evaluation={evaluation}", "data=image_folder", f"data.name={dataset}", *options]
    evaluate(configured("evaluate", "run=mine", f"root={root}", *chosen), evaluation, "prefix")
    rows = read_rows(Run(root / "runs" / "mine").results(evaluation, dataset, "prefix"))
    return {row.dim: row.value for row in rows if row.metric == "top1"}


def test_classes_are_known_by_their_names(root, tmp_path):
    run = embedded(root)
    images = tmp_path / "images"
    some = shutil.copytree(images, tmp_path / "some")
    shutil.rmtree(some / "cat")
    embedded(root, *other(some, "data.name=some"))
    stored = load(run.embeddings("some", "val"))
    assert set(stored.labels.tolist()) <= {1, 2} and stored.known("name") == ["cat", "dog", "fox"]
    own = load(run.embeddings("image_folder", "val"))
    rows = np.isin(own.labels, [1, 2])
    np.testing.assert_array_equal(stored.labels, own.labels[rows])
    np.testing.assert_allclose(stored.features, own.features[rows], atol=1e-5)
    logits = own.heads.logits(own.features[rows], own.width)
    expected = float((logits.argmax(axis=1) == own.labels[rows]).mean())
    assert accuracy(root, "some", "linear")[own.width] == pytest.approx(expected)


def test_new_classes_are_unseen_to_the_heads_and_found_by_neighbours(root, tmp_path, capsys):
    run = embedded(root)
    mixed = paint(shutil.copytree(tmp_path / "images", tmp_path / "mixed"), ["owl", "bee"], seed=4)
    shutil.rmtree(mixed / "cat")
    embedded(root, *other(mixed, "data.name=mixed"))
    out = capsys.readouterr().out
    assert "mixed: 2 classes are new to the run, such as bee" in out
    assert out.count("mixed: ") == 2 and " images in 4 classes" in out  # what is read is told once
    train = load(run.embeddings("mixed", "train"))
    assert train.known("name") == ["cat", "dog", "fox", "bee", "owl"]
    assert set(train.labels.tolist()) == {1, 2, 3, 4}
    with pytest.raises(UserError, match=r"not among the 3 classes of the classifier, such as (bee|owl)"):
        accuracy(root, "mixed", "linear")
    assert accuracy(root, "mixed", "knn", "database=train", "queries=[train]", "evaluation.k=[1]")
    strange = paint(tmp_path / "strange", ["ant", "bee", "cow"], seed=5)  # as many as the run's
    embedded(root, *other(strange, "data.name=strange"))
    with pytest.raises(UserError, match="none of the classes is one that the run was trained on"):
        accuracy(root, "strange", "linear")


def test_runs_of_before_keep_their_split_and_hear_of_changes(tmp_path, capsys):
    images = paint(tmp_path / "images", ["cat", "dog", "fox"])
    root = make_run(tmp_path, images, before=True)
    run = embedded(root, *other(images))  # whose options say split: by_name
    assert "have changed" not in capsys.readouterr().out
    assert len(load(run.embeddings("image_folder", "val"))) == 8  # by position: 0.4 of 18, stratified
    embedded(root)
    assert capsys.readouterr().out.count("complete already") == 2
    (images / "cat" / "3.ppm").unlink()
    embedded(root)
    assert "files or folders have changed since run mine was begun" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.root=.*elsewhere \(the run: .*images\)"):
        embedded(root, *other(shutil.copytree(images, tmp_path / "elsewhere")))


def test_embeddings_that_name_options_as_before_are_kept(root, capsys):
    path = embedded(root).embeddings("image_folder", "train") / META
    meta = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
    meta["data"]["data.augment.centre"] = meta["data"].pop("data.augment.center")
    path.write_text(json.dumps(meta))
    capsys.readouterr()
    embedded(root)
    assert capsys.readouterr().out.count("complete already") == 2


def test_embeddings_of_before_files_were_noted_are_kept_until_a_file_changes(root, tmp_path, capsys):
    run = embedded(root)
    for split in ("train", "val"):
        path = run.embeddings("image_folder", split) / META
        meta = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("files", "digest")}
        where = str(tmp_path / "images")
        meta["data"] |= {"data.root": where, "data.source.root": where}
        meta["data"]["data.augment.centre"] = meta["data"].pop("data.augment.center")
        path.write_text(json.dumps(meta))
    capsys.readouterr()
    embedded(root)
    assert capsys.readouterr().out.count("complete already") == 2


def test_data_without_files_are_known_by_their_options(tmp_path):
    options = ["data=digits", "data.loader=torch"]
    arch = ["model=timm", "model.arch=test_resnet", "model.name=tiny", "logger=csv"]
    cfg = configured("train", *options, *arch, "run_name=mine")
    run = Run(tmp_path / "outputs" / "runs" / "mine")
    run.checkpoint.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.to_container(cfg, resolve=True), run.config_path)
    inputs = {"channels": 1, "size": 32, "num_classes": 10}
    method = as_if_trained(build_method(cfg, **inputs))
    torch.save(
        {"inputs": inputs, "state_dict": {f"method.{k}": v for k, v in method.state_dict().items()}},
        run.checkpoint,
    )
    with pytest.raises(
        UserError, match=r"digits names the data .* data\.source\.val_share=0\.5 \(the run: 0\.2\)"
    ):
        embedded(tmp_path / "outputs", *options, "data.source.val_share=0.5", "splits=[val]")


def test_other_data_are_normalised_as_the_run_was(root, tmp_path, capsys):
    run = Run(root / "runs" / "mine")
    config = run.config
    OmegaConf.set_readonly(config, False)
    config.data.augment.mean = [0.1, 0.2, 0.3]
    OmegaConf.save(config, run.config_path)
    embedded(root, *other(tmp_path / "images", "data.name=again"))
    assert "data.augment.mean=[0.1, 0.2, 0.3], as the run was trained with" in capsys.readouterr().out
    embedded(root)
    own, again = (load(run.embeddings(name, "val")).features for name in ("image_folder", "again"))
    np.testing.assert_array_equal(own, again)


def test_copies_are_augmented_as_in_training_each_in_its_way(root, tmp_path):
    run = Run(root / "runs" / "mine")
    embed(configured("embed", f"root={root}", "run=mine", "splits=[train]", "trainer=cpu"))
    embed(configured("embed", f"root={root}", "run=mine", "augmented=3", "trainer=cpu"))
    plain, copies = (load(run.embeddings("image_folder", "train", s)) for s in ("", "augmented3"))
    count = len(plain)
    assert len(copies) == 3 * count and copies.meta["augmented"] == 3
    np.testing.assert_array_equal(copies.labels, np.tile(plain.labels, 3))
    parts = np.split(np.asarray(copies.features), 3)
    pairs = [(parts[0], parts[1]), (parts[1], parts[2]), (plain.features, parts[0])]
    assert all((np.abs(one - other).max(axis=1) > 1e-4).mean() > 0.9 for one, other in pairs)


@pytest.mark.parametrize("batch", [4, 7])
def test_each_copy_is_what_a_later_epoch_of_training_shows(batch, root, tmp_path):
    data = construct(
        configured("train", *SMALL, f"data.root={tmp_path / 'images'}", f"data.batch_size={batch}").data
    )
    loader = data.augmented("train", 2)
    found = {int(i): x for images, _, index in loader for i, x in zip(index, images, strict=True)}
    count = len(data.samples("train"))
    assert sorted(found) == [*range(2 * count)]
    run, _ = data._reader("train", training=True)
    for copy in range(2):
        for images, _, index in run([np.arange(count)], LATER + copy):
            for i, x in zip(index, images, strict=True):
                torch.testing.assert_close(found[int(i) + copy * count], x)
