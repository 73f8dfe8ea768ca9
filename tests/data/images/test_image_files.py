"""What lies in folders of images besides images, and which layouts are known."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from stand_ins import folders

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.image_files import class_folders, image_files, visible
from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.data.images.query_folders import QueryFolders
from mrl_experiments.data.reading import Tally
from mrl_experiments.data.splits import BY_NAME
from mrl_experiments.errors import UserError


def source(root, share=0.3, seed=0, split=BY_NAME):
    return ImageFolder("mine", str(root), share, seed, split)


def names(files, root):
    return [str(path.relative_to(root)) for path, _ in files]


@pytest.fixture
def tree(tmp_path):
    return folders(tmp_path / "images", ["cat", "dog"], count=6)


def counts(tally):
    return {kind: count for kind, (count, _) in tally.kinds.items()}


def test_hidden_things_are_counted_and_not_read(tree):
    image = tree / "cat" / "0.png"
    for name in ("._0.png", ".hidden.png", "Thumbs.db"):
        shutil.copy(image, tree / "cat" / name)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (tree / "dog" / name).mkdir()
        shutil.copy(image, tree / "dog" / name / "0.png")
    shutil.copytree(tree / "dog", tree / "__MACOSX")
    (tree / "README.md").touch()
    (tree / "dog" / "list.txt").touch()
    found = source(tree)
    assert found.classes == ["cat", "dog"]
    assert sum(len(found.open(split)) for split in found.splits) == 12
    assert counts(found.skipped) == {"hidden": 7, "outside the class folders": 1, "of another kind": 1}
    assert found.manifest("train")["skipped"]["of another kind"] == {"count": 1, "first": "dog/list.txt"}
    assert "12 images in 2 classes" in found.report() and "1 of another kind (dog/list.txt)" in found.report()


def test_links_are_followed_once_and_never_in_circles(tree, tmp_path):
    folders(tmp_path / "elsewhere", ["more"], count=2)
    (tree / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tree / "cat" / "again").symlink_to(tmp_path / "elsewhere" / "more")
    (tree / "cat" / "up").symlink_to("..")
    (tree / "cat" / "self").symlink_to(".")
    (tree / "cat" / "gone.png").symlink_to("nowhere.png")
    (tree / "cat" / "circle.png").symlink_to("circle.png")
    (tree / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "more" / "0.png")
    (tree / "fox").symlink_to(tmp_path / "elsewhere")
    skipped = Tally()
    labels = {"cat": 0, "fox": 1}
    found = image_files(tree, labels, skipped)
    assert names(found, tree) == [
        *(f"cat/{n}.png" for n in range(6)), "cat/again/0.png", "cat/again/1.png", "cat/linked.png",
        "fox/more/0.png", "fox/more/1.png",
    ]  # fmt: skip
    assert counts(skipped) == {"linked again": 3, "dangling link": 1, "link in a circle": 1}


def test_what_is_no_regular_file_is_never_opened(tree):
    os.mkfifo(tree / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "cat" / "s.png"))
        (tree / "dog" / "null.png").symlink_to("/dev/zero")
        (tree / "dog" / "folder.jpg").mkdir()
        shutil.copy(tree / "dog" / "0.png", tree / "dog" / "folder.jpg" / "inside.png")
        found = source(tree)
    assert counts(found.skipped) == {"no regular file": 3}
    assert sum(len(found.open(split)) for split in found.splits) == 13


def test_any_name_that_is_text_is_read_and_others_are_counted(tree, capsys):
    odd = [
        "a b.png",
        "new\nline.png",
        "'\"quotes.png",
        "#=,;.png",
        "\U0001f600.png",
        "x" * 250 + ".png",
        "A.PNG",
    ]
    for name in odd:
        shutil.copy(tree / "cat" / "0.png", tree / "cat" / name)
    shutil.copy(tree / "cat" / "0.png", os.fsencode(tree / "cat") + b"/\xff.png")
    found = source(tree)
    listed = {path.name for split in found.splits for path, _ in found.open(split)}
    assert set(odd) <= listed and len(listed) == 6 + len(odd)
    assert counts(found.skipped) == {"with a name that is not UTF-8": 1}
    assert found.report().isprintable() and found.identity() == source(tree).identity()
    (tree / "Cat").mkdir()
    shutil.copy(tree / "cat" / "0.png", tree / "Cat" / "0.png")
    shutil.copy(tree / "cat" / "0.png", tree / "Cat" / "1.png")
    assert source(tree, seed=3).classes == ["Cat", "cat", "dog"]
    os.mkdir(os.fsencode(tree) + b"/\xff")
    with pytest.raises(UserError, match="1 folders have names that are not UTF-8"):
        source(tree)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"), ("Train", "Val"), ("train", "valid"), ("training", "validation"),
        ("TRAIN", "Valid"), ("1_train", "2_val"), ("train2017", "val2017"),
        ("Training Data", "Validation Data"), ("trainImages", "devImages"), ("train-2024-001", "val (1)"),
    ],
)  # fmt: skip
def test_common_names_of_splits_are_known(train, val, tmp_path):
    folders(tmp_path / train, ["cat", "dog"], count=3)
    folders(tmp_path / val, ["dog"], count=2)
    (tmp_path / "annotations").mkdir()
    found = source(tmp_path)
    assert found.classes == ["cat", "dog"] and found.splits == ("train", "val")
    assert names(found.open("val"), tmp_path) == [f"{val}/dog/0.png", f"{val}/dog/1.png"]
    assert [label for _, label in found.open("val")] == [1, 1]  # one that lacks a class keeps the labels
    assert counts(found.skipped) == {"folder beside the splits": 1}


def test_a_test_folder_is_one_more_split_and_train_alone_is_split(tmp_path):
    folders(tmp_path / "train", ["cat", "dog"], count=9)
    alone = source(tmp_path)
    assert alone.splits == ("train", "val")
    folders(tmp_path / "test", ["cat", "yak"], count=2)
    found = source(tmp_path)
    assert found.splits == ("train", "val", "test") and found.open("val") == alone.open("val")
    assert names(found.open("test"), tmp_path) == ["test/cat/0.png", "test/cat/1.png"]
    assert counts(found.skipped) == {"folder that is no class of train": 1}
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()
    shutil.copy(
        tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "0.png"
    )  # ImageNet's have no labels
    assert source(tmp_path).splits == ("train", "val")


@pytest.mark.parametrize(
    ("made", "problem", "remedy"),
    [
        (["val/cat", "val/dog"], "a split for training is missing", "data.root=.*/val"),
        (["val/cat", "test/cat"], "a split for training is missing", "rename"),
        (["train/cat", "train/dog", "val/cat", "valid/cat"], "which of them is val", "rename"),
        (["train/cat", "train/dog", "Train/cat"], "which of them is train", "rename"),
        (["images/cat", "images/dog"], "has 1 class folders", "data.root=.*/images"),
        (["train/cat", "train/dog", "val/owl"], "val has 1 classes that .*train lacks: owl", "rename"),
        (["train", "valid"], "train has 0 class folders", "folder named like it"),
        (["train/cat", "train/dog", "train_2/cat", "val/cat"], "which of them is train", "rename"),
        (["train/cat", "train/dog", "holdout/cat"], "are holdout classes beside it", "data.root=.*/train"),
        (["train/cat", "train/dog", "val"], "val holds no image of .*skipped 2 outside", "such folders"),
        (["train/Cat", "train/dog", "val/cat "], r"lacks: 'cat ' \(not 'Cat'\)", "rename"),
        (["cat/Train", "cat/Test", "dog/Train"], "cat has .*Test, Train: splits inside classes", "move"),
        (["cat/training_set", "cat/test_set", "dog"], "splits inside classes", "data.root=.*/cat"),
        (["K\u00e4tze", "Ka\u0308tze", "dog"], "the same letters, written in two ways", "remove one"),
    ],
)  # fmt: skip
def test_other_layouts_are_refused_by_name(made, problem, remedy, tmp_path):
    folders(tmp_path, made, count=2)
    with pytest.raises(UserError, match=problem) as caught:
        source(tmp_path)
    assert re.search(remedy, caught.value.remedy)


def test_a_class_may_be_called_train(tmp_path):
    folders(tmp_path, ["bus", "car", "train"], count=4)
    assert source(tmp_path, split="by_position").classes == ["bus", "car", "train"]


def test_words_of_splits_in_names_of_classes_make_no_splits(tmp_path):
    folders(tmp_path, ["test_tube", "train_station", "bus"], count=4)
    found = source(tmp_path)
    assert found.classes == ["bus", "test_tube", "train_station"] and found.splits == ("train", "val")


@pytest.mark.parametrize("inner", ["{}", "{}/{}", "{}/images"])
def test_class_folders_may_lie_in_a_lone_folder_of_a_split(inner, tmp_path):
    for split in ("training_set", "val_set", "test_set"):
        folders(tmp_path / inner.format(split, split), ["cat", "dog"][: 2 - (split == "val_set")], count=3)
    found = source(tmp_path)
    assert found.classes == ["cat", "dog"] and found.splits == ("train", "val", "test")
    assert {split: len(found.open(split)) for split in found.splits} == {"train": 6, "val": 3, "test": 6}


def test_folders_inside_those_of_classes_are_told(tmp_path):
    folders(tmp_path, ["animal/cat", "animal/dog", "plant"], count=3)
    found = source(tmp_path, seed=1)
    assert found.classes == ["animal", "plant"]
    assert "; 6 in folders inside those of classes (animal/cat/0.png)" in found.report()


def test_class_names_are_the_same_however_their_letters_are_stored(tmp_path):
    folders(tmp_path / "train", ["K\u00e4tze", "dog"], count=3)
    folders(tmp_path / "val", ["Ka\u0308tze"], count=2)
    found = source(tmp_path)
    assert {found.classes[label] for _, label in found.open("val")} == {"K\u00e4tze"}


def test_one_folder_linked_as_two_classes_is_refused(tree):
    (tree / "hound").symlink_to("dog")
    with pytest.raises(UserError, match="'dog' and 'hound' are one folder"):
        source(tree)


def test_all_empty_classes_are_named_with_what_lies_there(tree):
    (tree / "owl").mkdir()
    (tree / "yak").mkdir()
    (tree / "yak" / "0.txt").touch()
    (tree / "cat" / "a.HEIC").touch()
    with pytest.raises(
        UserError, match=r"owl holds(.|\n)*yak holds no image; .*yak/0.txt(.|\n)*2 such folders"
    ):
        source(tree)
    assert counts(source_without(tree, "owl", "yak").skipped) == {"of the kind .heic": 1}


def source_without(tree, *classes):
    for name in classes:
        shutil.rmtree(tree / name)
    return source(tree)


def test_by_name_other_files_move_none(tree):
    before = {split: set(names(source(tree).open(split), tree)) for split in ("train", "val")}
    folders(tree, ["owl"], count=5)
    for number in range(20, 40):
        shutil.copy(tree / "cat" / "0.png", tree / "cat" / f"{number}.png")
    removed = {next(iter(before["train"])), next(iter(before["val"]))}
    for name in removed:
        (tree / name).unlink()
    after = {split: set(names(source(tree).open(split), tree)) for split in ("train", "val")}
    for split, files in before.items():
        assert files - removed <= after[split]
    moved = shutil.move(tree, tree.with_name("moved"))
    assert {split: set(names(source(moved).open(split), moved)) for split in after} == after
    assert names(source(moved, seed=1).open("val"), moved) != names(source(moved).open("val"), moved)


def test_by_name_holds_out_the_share(tmp_path):
    folders(tmp_path, ["a", "b"])
    for number in range(2000):
        (tmp_path / "a" / f"{number}.png").touch()
    assert 0.08 < len(source(tmp_path, share=0.1).open("val")) / 2001 < 0.12


def test_a_split_that_serves_nothing_names_a_seed_that_does(tmp_path):
    folders(tmp_path, ["a", "b"], count=2)
    bad = next(seed for seed in range(100) if not _serves(tmp_path, seed))
    with pytest.raises(UserError, match="cannot be split") as caught:
        source(tmp_path, seed=bad)
    good = int(caught.value.remedy.partition("seed=")[2].partition(",")[0])
    assert source(tmp_path, seed=good).open("val")


def _serves(root, seed):
    try:
        return bool(source(root, seed=seed))
    except UserError:
        return False


def test_runs_of_before_keep_their_listing_and_their_split(tree):
    (tree / "dog" / ".old.png").write_bytes((tree / "dog" / "0.png").read_bytes())
    old = source(tree, split="by_position")
    assert sum(len(old.open(split)) for split in old.splits) == 13
    assert len(old.open("val")) == 4  # a third of each class, as scikit-learn stratifies


@pytest.mark.parametrize(
    "lines", ["\ufeffdog\ncat\n", "dog\r\ncat\r\n", "\n dog \n\tcat\n", "dog a pet\ncat a pet"]
)
def test_lists_of_classes_from_any_editor(lines, tmp_path):
    listed = tmp_path / "classes.txt"
    listed.write_bytes(lines.encode())
    assert class_list(str(listed), ["cat"]) == ["dog", "cat"]


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_listed_names_are_those_of_folders_however_letters_are_stored(name, tmp_path):
    folders(tmp_path / "images", ["Ka\u0308tze", "dog"])
    (tmp_path / name).write_text("dog,a\nK\u00e4tze,b\n" if name[-1] == "v" else "dog\nK\u00e4tze\n")
    found = QueryFolders("mine", str(tmp_path / "images"), "val", str(tmp_path / name), None)
    assert found.classes == ["dog", "Ka\u0308tze"] and [label for _, label in found.open("val")] == [1, 0]


def test_names_with_blanks_are_names_as_a_whole(tmp_path):
    root = folders(tmp_path / "images", ["golden retriever", "sea lion"])
    listed = tmp_path / "classes.txt"
    listed.write_text("sea lion\ngolden retriever\ngolden eagle\n")
    assert class_list(str(listed)) == ["sea lion", "golden retriever", "golden eagle"]  # first words repeat
    listed.write_text("sea lion\ngolden retriever\nyak\n")
    found = QueryFolders("set", str(root), "r", str(listed), None)
    assert {path.parent.name: label for path, label in found.open("r")} == {
        "sea lion": 0,
        "golden retriever": 1,
    }
    listed.write_bytes(b"\x89PNG\xff\xff\nyak\n")
    with pytest.raises(UserError, match=r"classes\.txt"):
        class_list(str(listed))


def test_folders_without_rights_are_one_message(tree, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"permission denied: .*dog"):
        source(tree)
    monkeypatch.undo()
    assert class_folders(tree) == ["cat", "dog"]


@pytest.mark.slow
def test_a_fifo_does_not_hang_a_process(tree):
    os.mkfifo(tree / "cat" / "pipe.png")
    os.mkfifo(tree / "pipe.png")
    code = (
        "import sys; from mrl_experiments.data.images.image_folder import ImageFolder;"
        "print(ImageFolder('mine', sys.argv[1], 0.3, 0, 'by_name').report())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tree], capture_output=True, text=True, timeout=60, check=True
    )
    assert "1 no regular file (cat/pipe.png)" in done.stdout


@pytest.mark.parametrize("target, said", [("gone", "Val is a link to gone"), ("Val", "lead in a circle")])
def test_a_split_that_is_out_of_reach_is_not_replaced_by_another(tmp_path, target, said):
    (tmp_path / "Val").symlink_to(target)
    with pytest.raises(UserError, match=said):
        list(visible(tmp_path, tmp_path, Tally()))
