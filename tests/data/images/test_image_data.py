"""The data module: which loader, which splits, what it refuses."""

import shutil

import pytest
import torch
from commands import need_ffcv, succeed
from stand_ins import folders

from mrl_experiments.data.file_table import CROSSED, File, changes
from mrl_experiments.data.images.beton_files import BetonFiles
from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.errors import UserError


def test_what_a_model_is_built_from(pictures, image_data):
    data = image_data(pictures(channels=1), "torch")
    assert (data.num_classes, data.channels, data.size) == (5, 1, 16)
    assert data.splits == ("train", "val")
    assert image_data(pictures(), "torch", size=24).size == 24


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 24}, "one-channel images are not resized"),
        ({"batch_size": 151}, "exceeds the training set"),
    ],
)
def test_bad_options_are_refused(options, complaint, pictures, image_data):
    with pytest.raises(UserError, match=complaint):
        image_data(pictures(channels=1), **{"loader": "torch", **options}).train_dataloader()


def test_files_of_any_size_need_a_size(photographs, image_data):
    with pytest.raises(UserError, match=r"data\.size is not set"):
        image_data(ImageFolder("photographs", str(photographs), 0.1, 0), "torch")


@pytest.mark.parametrize("loader", ["torch", "ffcv"])
def test_copies_that_contradict_each_other_are_told_once(loader, photographs, image_data, tmp_path, capsys):
    if loader == "ffcv":
        need_ffcv()
    root = shutil.copytree(photographs, tmp_path / "images")
    shutil.copy(root / "train/a/0.jpg", root / "train/b/copy.jpg")
    shutil.copy(root / "train/a/1.jpg", root / "train/a/copy.jpg")  # of one class: nothing to tell
    for number in (2, 3):
        shutil.copy(root / f"train/a/{number}.jpg", root / f"val/c/copy{number}.jpg")
    data = image_data(ImageFolder("photographs", str(root), 0.5, 0), loader, size=32)
    data.prepare_data()
    data.prepare_data()
    out = capsys.readouterr().out
    assert out.count(f"train: 2 images are in several classes ({root}/train/a/0.jpg)") == 1
    assert out.count(f"val: 2 images are copies of some in train ({root}/val/c/copy2.jpg)") == 1
    assert out.count("images in 3 classes") == 1


def test_a_runs_classes_are_known_however_letters_are_stored(image_data, tmp_path, capsys):
    for split in ("train", "val"):
        folders(tmp_path / "images" / split, ["Ka\u0308tze", "dog"])
    data = image_data(ImageFolder("mine", str(tmp_path / "images"), 0.5, 0), "torch", size=8)
    data.take_classes(["ant", "K\u00e4tze", "dog"])
    assert [label for _, labels, _ in data.val_dataloader() for label in labels.tolist()] == [1, 2]
    assert data.class_facts("val")["name"] == ["ant", "K\u00e4tze", "dog"] and not data.facts("val")
    data.take_classes(["Dog", "owl"])
    assert "none of its 2 classes, such as Ka\u0308tze, is one of the run's" in capsys.readouterr().out
    assert data.facts("val") == {"unseen": True}


def test_files_of_another_split_are_named_and_those_trained_on_apart(tmp_path):
    before = {name: File(split, 1, 2) for name, split in (("a", "val"), ("b", "train"), ("c", "train"))}
    now = {name: File(split, 1, 2) for name, split in (("a", "test"), ("b", "val"), ("c", "train"))}
    found = changes(before, now, tmp_path)
    assert found.kinds == {"in another split now": [1, ["a"]], CROSSED: [1, ["b"]]}
    assert found.listed(3) == "1 in another split now (a), 1 trained on, and in another split now (b)"


def test_an_unknown_split_is_refused(pictures, image_data):
    with pytest.raises(UserError, match="pictures has no split sketch"):
        image_data(pictures(), "torch").dataloader("sketch")


@pytest.mark.parametrize("loader", ["ffcv", "torch"])
def test_a_corrupt_image_is_named_before_training(loader, photographs, image_data, tmp_path):
    if loader == "ffcv":
        need_ffcv()
    (tmp_path / "train" / "a").mkdir(parents=True)
    for split, name in [("train", "b"), ("val", "a"), ("val", "b")]:
        (tmp_path / split / name).mkdir(parents=True)
    content = (photographs / "train" / "a" / "0.jpg").read_bytes()
    for folder in tmp_path.glob("*/*"):
        (folder / "fine.jpg").write_bytes(content)
    (tmp_path / "train" / "b" / "torn.jpg").write_bytes(content[:600])
    data = image_data(ImageFolder("torn", str(tmp_path), 0.1, 0), loader, size=32)
    with pytest.raises(UserError, match=r"torn\.jpg cannot be read"):
        data.prepare_data()


@pytest.mark.slow
def test_ready_betons_are_checked_when_they_are_named_and_then_read(photographs, image_data, tmp_path):
    need_ffcv()
    source = ImageFolder("photographs", str(photographs), 0.1, 0)
    made = image_data(source, "ffcv", size=32)
    betons = {split: str(made.samples(split)) for split in made.splits}
    two = tmp_path / "two.txt"
    two.write_text("a\nb\n")
    ready = image_data(BetonFiles("ready", str(photographs), betons), "ffcv", size=32, betons=betons)
    for ours, theirs in zip(ready.val_dataloader(), made.val_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(UserError, match="has labels from 0 to 2, not 2 classes"):
        image_data(BetonFiles("ready", str(two), betons), "ffcv", size=32, betons=betons)
    betons["val"] = str(tmp_path / "absent.beton")
    with pytest.raises(UserError, match=r"absent\.beton does not exist"):
        image_data(BetonFiles("ready", None, betons), "ffcv", size=32, betons=betons)


WITHOUT_FFCV = """
import sys
sys.modules["ffcv"] = None
from mrl_experiments.data.images.image_data import ImageData
from mrl_experiments.data.images.digits import Digits
from mrl_experiments.errors import UserError

def build(loader, **augment):
    return ImageData(
        name="digits", source=Digits(), root=None, loader=loader, batch_size=64, workers=1, cache=sys.argv[1],
        size=None, resolution=None, augment=augment, storage={"default": {}}, betons={}, seed=0,
    )

assert build("auto").loader == "torch"  # small images are read as fast without it
data = build("auto", crop=[0.5, 1.0])
data.prepare_data()
print("batches", sum(1 for _ in data.train_dataloader()))
try:
    build("ffcv")
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_ffcv_the_torch_loader_works_and_says_so(tmp_path):
    (tmp_path / "without.py").write_text(WITHOUT_FFCV)
    out = succeed(tmp_path / "without.py", tmp_path)
    lines = out.splitlines()
    assert lines[0].startswith("FFCV does not import (") and lines[0].endswith("; using data.loader=torch")
    assert sum(line.startswith("FFCV does not import") for line in lines) == 1
    assert "batches 22" in lines
    assert "data.loader=ffcv, but FFCV does not import" in out
