"""Tables of captions as they come: what is used, and what is named, counted and left out."""

import pytest
from PIL import Image

from mrl_experiments.data.caption_table import read_pairs
from mrl_experiments.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "deep/c.JPG", "unused.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def table(folder, content, name="captions.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_cannot_be_used_is_named_and_counted(folder):
    lines = [
        b"image,caption,split",
        b"a.png,a red square,train",
        b"gone.png,a caption without an image,train",
        b",another one,train",
        b"b.png,,val",
        b"b.png,   ,val",
        "b.png,na\u00efve,val".encode("latin-1"),
        "b.png,\u6f22\u5b57 na\u00efve,val".encode(),
        b'deep/c.JPG,"with, a comma",val',
    ]
    pairs, skipped = read_pairs(table(folder, b"\n".join(lines)))
    assert [(pair.image.name, pair.caption, pair.split) for pair in pairs] == [
        ("a.png", "a red square", "train"),
        ("b.png", "\u6f22\u5b57 na\u00efve", "val"),
        ("c.JPG", "with, a comma", "val"),
    ]
    assert sorted(skipped) == [
        "skipped 1 lines that are not UTF-8: line 7",
        "skipped 2 captions without an image: line 3 (gone.png), line 4 (no path)",
        f"skipped 3 images without a caption: line 5 (b.png), line 6 (b.png), {folder / 'unused.png'}",
    ]


def test_a_few_of_many_are_named(folder):
    gone = "".join(f"gone{number}.png,x\n" for number in range(9))
    _, skipped = read_pairs(table(folder, f"image,caption\na.png,x\n{gone}"))
    (line,) = [line for line in skipped if "captions without an image" in line]
    assert line.startswith("skipped 9 ") and line.endswith("line 5 (gone2.png), ...")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.tsv", "image\tcaption\na.png\tone, two\n"),
        ("captions.csv", '\ufeffcaption,image\r\n"one, two",a.png\r\n'),
    ],
)
def test_tabs_order_marks_and_line_ends(folder, name, content):
    (pair,), _ = read_pairs(table(folder, content, name))
    assert (pair.image, pair.caption, pair.split) == (folder / "a.png", "one, two", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.txt", "image,caption\na.png,x\n", "is no table of captions"),
        ("captions.csv", "file,caption\na.png,x\n", "lacks the column image"),
        ("captions.csv", "image,text\na.png,x\n", "lacks the column caption"),
        ("captions.csv", "", "lacks the column image"),
        ("captions.csv", "image,caption\n", "has no usable pair: it is empty"),
        (
            "captions.csv",
            "image,caption\ngone.png,x\n",
            r"no usable pair: skipped 1 captions without an image",
        ),
        (
            "captions.csv",
            "image,caption\na.png,x\n".encode("utf-16"),
            "lacks the column image|cannot be read",
        ),
    ],
)
def test_what_is_no_table_is_refused(folder, name, content, message):
    with pytest.raises(UserError, match=message):
        read_pairs(table(folder, content, name))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv cannot be read"):
        read_pairs(tmp_path / "gone.csv")
