"""Tables of captions as they come: what is used, and what is named, counted and left out."""

import codecs
import os

import pytest
from PIL import Image

from mrl_experiments.data.captions.caption_table import read_pairs
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
    pairs, reading = read_pairs(table(folder, b"\n".join(lines)))
    assert [(pair.image.name, pair.caption, pair.split) for pair in pairs] == [
        ("a.png", "a red square", "train"),
        ("b.png", "\u6f22\u5b57 na\u00efve", "val"),
        ("c.JPG", "with, a comma", "val"),
    ]
    assert sorted(reading.lines()) == [
        "skipped 1 lines that are not UTF-8: line 7",
        "skipped 2 captions without an image: line 3 (gone.png), line 4 (no path)",
        f"skipped 3 images without a caption: line 5 (b.png), line 6 (b.png), {folder / 'unused.png'}",
    ]
    assert reading.manifest() == {
        "read": 3,
        "converted": {},
        "skipped": {
            "captions without an image": 2,
            "images without a caption": 3,
            "lines that are not UTF-8": 1,
        },
    }


def test_a_few_of_many_are_named(folder):
    gone = "".join(f"gone{number}.png,x\n" for number in range(9))
    _, reading = read_pairs(table(folder, f"image,caption\na.png,x\n{gone}"))
    (line,) = [line for line in reading.lines() if "captions without an image" in line]
    assert line.startswith("skipped 9 ") and line.endswith("line 7 (gone4.png), ...")


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
        ("captions.csv", "image,caption\na.png,x\n".encode("utf-16-le"), "lacks the column image"),
        ("captions.csv", codecs.BOM_UTF16_LE + b"image", "is not UTF-16 text"),
        ("captions.csv", "image,caption,caption\na.png,x,y\n", "has 2 columns named caption"),
        ("captions.csv", "a.png,x\nb.png,y\n", r"lacks the column image: it begins with 'a\.png,x'"),
        ("captions.csv", "image\tcaption\na.png\tx\n", r"(.|\n)*name it captions\.tsv"),
        ("captions.tsv", "image,caption\na.png,x\n", r"(.|\n)*name it captions\.csv"),
        (
            "captions.csv",
            "image,caption,split\na.png,x,fold1\nb.png,y,fold2\n",
            "2 unknown words.*'fold1', 'f",
        ),
        (
            "captions.csv",
            "image,caption\n../b.png,y\n/../a.png,x\n",
            r"1 image paths leave .*line 2 \(\.\./b",
        ),
        ("captions.csv", "image,caption\ndeep/../..\\x,y\n..,x\n", r"2 image paths leave"),
    ],
)
def test_what_is_no_table_is_refused(folder, name, content, message):
    with pytest.raises(UserError, match=message):
        read_pairs(table(folder, content, name))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read_pairs(tmp_path / "gone.csv")


def captions_of(folder, content, name="captions.csv"):
    pairs, reading = read_pairs(table(folder, content, name))
    return [(pair.image.name, pair.caption) for pair in pairs], reading.manifest()


def test_a_tab_separated_caption_may_begin_with_a_quotation_mark(folder):
    lines = ["image\tcaption", 'a.png\t"Hello', *(f"b.png\tcaption {n}" for n in range(54)), 'a.png\t5" nail']
    found, _ = captions_of(folder, "\n".join(lines), "captions.tsv")
    assert found == [
        ("a.png", '"Hello'),
        *(("b.png", f"caption {n}") for n in range(54)),
        ("a.png", '5" nail'),
    ]


def test_a_tab_separated_table_whose_heading_is_quoted_is_quoted(folder):
    found, _ = captions_of(folder, '"image"\t"caption"\n"a.png"\t"say ""hi"""\n', "captions.tsv")
    assert found == [("a.png", 'say "hi"')]


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (['a.png,"open', "b.png,x", "b.png,y"], "1 quotation marks .*: line 2"),
        (['a.png,"open', "b.png,x", 'b.png,"closed"', "b.png,z"], "1 quotation marks .*: line 2"),
        (['a.png,"open', "b.png,x", 'b.png,closed"', "b.png,z"], "1 quotation marks .*: line 2"),
        (['a.png,"open', 'b.png,x"', 'a.png,"again', 'b.png,y"'], "2 quotation marks .*: line 2, line 4"),
        (["a.png,x", 'b.png,"open'], "1 quotation marks .*: line 3"),
    ],
)
def test_an_open_quotation_mark_is_refused_with_its_line(folder, rows, lines):
    with pytest.raises(UserError, match=lines):
        captions_of(folder, "\n".join(["image,caption", *rows]))


def test_lines_of_the_wrong_width_are_counted_and_named(folder):
    rows = [
        "a.png,a dog, running",
        "b.png",
        "b.png,fine",
        'a.png,"two\nlines"',
        "b.png,end,,",
        'b.png,"x" y',
        "",
    ]
    _, reading = read_pairs(path := table(folder, "\n".join(["image,caption", *rows])))
    found, account = captions_of(folder, path.read_bytes())
    assert found == [("b.png", "fine"), ("a.png", "two\nlines"), ("b.png", "end")]
    lines = "\n".join(reading.lines())
    assert "skipped 1 lines with more than 2 fields" in lines and ": line 2\n" in lines
    assert "skipped 1 lines with fewer than 2 fields: line 3" in lines
    assert "skipped 1 lines that are no CSV" in lines and lines.count("line 8") == 1
    assert account["read"] == 3 and account["converted"] == {"lines with empty fields at their end": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.CSV"])
def test_encodings_and_line_ends(folder, encoding, end, name):
    separator = "\t" if name.endswith("tsv") else ","
    rows = [("Image ", "Caption"), ("a.png", "caf\u00e9 \u2028 \u6f22"), ("b.png", "b")]
    content = end.join(separator.join(row) for row in rows).encode(encoding)
    assert captions_of(folder, content, name)[0] == rows[1:]


def test_a_carriage_return_or_nul_inside_a_line(folder):
    found, account = captions_of(folder, "image,caption\na.png,one\rtwo\nb.png,x\0y\nb.png,z\n")
    assert found == [("a.png", "one two"), ("b.png", "z")]
    assert account["skipped"]["lines with NUL bytes"] == 1
    assert account["converted"] == {"lines with a carriage return inside, now a blank": 1}


def test_semicolons_repeated_lines_and_other_columns(folder):
    found, account = captions_of(folder, "id;image;caption\n1;a.png;x, y\n2;a.png;x, y\n3;b.png;z\n")
    assert found == [("a.png", "x, y"), ("b.png", "z")]
    assert account["skipped"]["lines that repeat others"] == 1
    assert account["skipped"]["columns that are not used"] == 1


def test_paths_as_other_systems_write_them(folder):
    for name in ("my dog.png", "caf\u00e9.png", "X.png", "x.png", "100%25.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    names = [
        "A.PNG",
        "deep\\c.JPG",
        "Deep/C.jpg",
        "my%20dog.png",
        "cafe\u0301.png",
        "./b.png",
        "deep/../b.png",
    ]
    names += ["100%25.png", str(folder / "a.png"), "x.PNG", "http://a/a.png", "a.png" * 100]
    found, account = captions_of(
        folder, "\n".join(["image,caption", *(f"{n},{i}" for i, n in enumerate(names))])
    )
    assert found == [
        *(("a.png", "0"), ("c.JPG", "1"), ("c.JPG", "2"), ("my dog.png", "3"), ("caf\u00e9.png", "4")),
        *(("b.png", "5"), ("b.png", "6"), ("100%25.png", "7"), ("a.png", "8")),
    ]
    assert account["skipped"]["captions without an image"] == 3  # x.PNG may be either of two
    assert list(account["converted"].values()) == [5]
    pairs, _ = read_pairs(folder / "captions.csv")
    assert pairs[5].image == pairs[6].image == folder / "b.png" and pairs[8].image == folder / "a.png"


def test_what_is_no_file_is_no_image(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "lost.png").symlink_to("nowhere.png")
    (folder / "link.png").symlink_to("a.png")
    rows = ["image,caption", *(f"{n}.png,{n}" for n in ("pipe", "loop", "lost", "link"))]
    found, account = captions_of(folder, "\n".join(rows))
    assert found == [("link.png", "link")] and account["skipped"]["captions without an image"] == 3


def test_a_table_that_is_a_pipe_is_refused(folder):
    os.mkfifo(folder / "captions.csv")
    with pytest.raises(UserError, match="is a pipe"):
        read_pairs(folder / "captions.csv")


def test_hidden_files_and_names_that_are_not_utf8(folder):
    for name in (".hidden/a.png", "__MACOSX/a.png", "._a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / os.fsdecode(b"\xe9.png")).touch()
    _, reading = read_pairs(table(folder, "image,caption\na.png,x\nb.png,y\ndeep/c.JPG,z\n"))
    (line,) = reading.lines()
    assert line == f"skipped 1 images without a caption: {folder}/unused.png"


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        (["Train", "valid", "TRAINING"], ["train", "val", "train"]),
        (["train", "dev", "test"], ["train", "val", "test"]),
        (["train2017", "val2017", ""], ["train", "val", ""]),
        (["train", "test", "Test"], ["train", "val", "val"]),
        (["restval", "validation", "testing"], ["train", "val", "test"]),
    ],
)
def test_splits_have_many_names(folder, words, splits):
    rows = [
        f"{name},{name},{word}" for name, word in zip(("a.png", "b.png", "deep/c.JPG"), words, strict=True)
    ]
    pairs, reading = read_pairs(table(folder, "\n".join(["image,caption,split", *rows])))
    assert [pair.split for pair in pairs] == splits
    told = sum("column split" in line for line in reading.lines())
    assert told == (words != ["train", "dev", "test"] or 1)
