"""Pairs of a table: what belongs together is a label, and a label is on one side."""

import os

import numpy as np
import pytest
from PIL import Image

from mrl_experiments.data.captions.image_text_folder import ImageTextFolder
from mrl_experiments.errors import UserError


def written(folder, pairs, columns="image,caption"):
    for image in {pair[0] for pair in pairs}:
        if not (folder / image).exists():
            Image.new("RGB", (4, 4)).save(folder / image)
    lines = [columns, *(",".join(pair) for pair in pairs)]
    (folder / "captions.csv").write_text("\n".join(lines))
    return str(folder)


def source(root, val_share=0.25, seed=0):
    return ImageTextFolder("pairs", root, val_share, seed)


def groups_by_hand(pairs):
    """Join groups until none shares an image or a caption with another."""
    groups = [({image}, {caption}) for image, caption in pairs]
    while True:
        for i, (images, captions) in enumerate(groups):
            for j in range(i + 1, len(groups)):
                if images & groups[j][0] or captions & groups[j][1]:
                    groups[i] = (images | groups[j][0], captions | groups[j][1])
                    del groups[j]
                    break
            else:
                continue
            break
        else:
            return groups


@pytest.mark.parametrize("seed", range(4))
def test_a_label_is_all_that_belongs_together(tmp_path, seed):
    random = np.random.default_rng(seed)
    pairs = [(f"{random.integers(25)}.png", f"text {random.integers(25)}") for _ in range(22)]
    data = source(written(tmp_path, pairs), val_share=0.5)
    images = dict.fromkeys(range(data.num_classes), frozenset())
    for split in data.splits:
        for path, label in data.open(split):
            images[label] |= {path.name}
    found = {(images[label], frozenset(data.captions[label])) for label in images}
    assert found == {(frozenset(a), frozenset(b)) for a, b in groups_by_hand(pairs)}


def many(count=40):
    return [(f"{number}.png", f"text {number}") for number in range(count)]


def test_the_held_out_share_is_drawn_once(tmp_path):
    root = written(tmp_path, many())
    data = source(root)
    train, val = (set(data.labels(split)) for split in data.splits)
    assert len(val) == 10 and not train & val and len(train | val) == 40
    assert source(root).labels("val") == data.labels("val") != source(root, seed=1).labels("val")


def test_the_table_may_say_which_side(tmp_path):
    pairs = [("a.png", "one", "val"), ("b.png", "two", "train"), ("b.png", "three", "train")]
    data = source(written(tmp_path, pairs, "image,caption,split"))
    assert [path.name for path, _ in data.open("val")] == ["a.png"]
    ((path, label),) = data.open("train")  # an image of two captions is one sample
    assert path.name == "b.png" and data.captions[label] == ["two", "three"]
    assert data.manifest("train")["captions"] == {str(label): ["two", "three"]}


def test_a_changed_image_is_other_data(tmp_path):
    data = source(written(tmp_path, many(4)))
    before = data.identity()
    assert source(str(tmp_path)).identity() == before
    os.utime(tmp_path / "2.png", (1, 1))
    assert source(str(tmp_path)).identity() != before


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [("a.png", "x", "train"), ("b.png", "x", "val")],
            r"shares its caption, is in the splits 'train' and",
        ),
        ([("a.png", "x", "train"), ("a.png", "y", "val")], r"a\.png.* is in the splits"),
        (
            [("a.png", "x", "train"), ("b.png", "y", "fold2")],
            r"'fold2'(.|\n)*train or val in the column split",
        ),
        (
            [("a.png", "x", "train"), ("b.png", "x", "val"), ("c.png", "z", "val"), ("d.png", "z", "test")],
            r"^2 groups",
        ),
        ([("a.png", "x", "train"), ("b.png", "y", "train")], "no pair is in val"),
        ([("a.png", "x", "train"), ("b.png", "y", "")], "is in the splits|no pair is in"),
    ],
)
def test_sides_that_leak_or_lack_are_refused(tmp_path, pairs, message):
    with pytest.raises(UserError, match=message):
        source(written(tmp_path, pairs, "image,caption,split"))


def test_a_place_without_a_table_is_refused(tmp_path):
    for root in (None, str(tmp_path), str(tmp_path / "gone")):
        with pytest.raises(UserError, match=r"data\.root=.* is no table of captions and holds none"):
            source(root)


def test_defects_are_printed(tmp_path, capsys):
    root = written(tmp_path, many(4))
    with (tmp_path / "captions.csv").open("ab") as table:
        table.write(b"\ngone.png,nothing\n1.png,caf\xe9\n")
    source(root)
    out = capsys.readouterr().out
    assert "skipped 1 captions without an image: line 6 (gone.png)" in out
    assert "skipped 1 lines that are not UTF-8: line 7" in out


def sides(root, **options):
    data = ImageTextFolder("pairs", root, 0.25, 0, **options)
    return {
        data.captions[label][0]: (split, path.name)
        for split in data.splits
        for path, label in data.open(split)
    }


def test_by_name_adding_or_removing_a_pair_moves_no_other(tmp_path):
    pairs = many(60)
    before = sides(written(tmp_path, pairs), split="by_name")
    held_out = [text for text, (split, _) in before.items() if split == "val"]
    assert 8 <= len(held_out) <= 24  # 15 expected, three deviations
    for changed in (pairs[1:], pairs[:30] + pairs[31:], [("A.png", "new"), *pairs], pairs[::-1]):
        after = sides(written(tmp_path, changed), split="by_name")
        assert all(after[text] == before[text] for text in after.keys() & before.keys())
    moved = sides(written(tmp_path, pairs[1:]))  # by position, as runs of before were split
    old = sides(written(tmp_path, pairs))
    assert any(moved[text] != old[text] for text in moved)


def test_two_pairs_are_enough_for_both_sides_and_one_is_refused(tmp_path):
    assert {split for split, _ in sides(written(tmp_path, many(2)), split="by_name").values()} == {
        "train",
        "val",
    }
    with pytest.raises(UserError, match="leaves no train or no val"):
        sides(written(tmp_path, many(1)), split="by_name")
    with pytest.raises(UserError, match=r"split=size"):
        sides(written(tmp_path, many(2)), split="size")


def test_a_test_split_beside_val_is_a_third(tmp_path):
    pairs = [("a.png", "one", "Validation"), ("b.png", "two", "Train"), ("c.png", "three", "test")]
    data = source(written(tmp_path, pairs, "image,caption,split"))
    assert data.splits == ("train", "val", "test")
    assert [path.name for path, _ in data.open("test")] == ["c.png"]
    assert data.manifest("test")["reading"] == {
        "read": 3,
        "converted": {"words in the column split": 2},
        "skipped": {},
    }


@pytest.mark.parametrize("name", ["train.parquet", "metadata.jsonl", "captions.json", "data-0.arrow"])
def test_tables_of_other_kinds_are_refused_by_name(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"holds none; {name} is not read"):
        source(str(tmp_path))
    with pytest.raises(UserError, match=rf"{name} is no table of captions(.|\n)*pandas"):
        source(str(tmp_path / name))
