"""Folders of text as they come: which files are read, in which split, and what is left out."""

import json
import os
from itertools import chain

import pytest

from mrl_experiments.data.text.text_folder import TextFolder
from mrl_experiments.data.text.token_file import open_tokens, token_file
from mrl_experiments.data.text.tokenizer import train_tokenizer
from mrl_experiments.errors import UserError


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def source(root, pattern="**/*", share=0.25, seed=0, split="by_name"):
    return TextFolder("texts", str(root), pattern, share, seed, split)


def names(data):
    return {split: [data.shown(path) for path in data.files[split]] for split in data.splits}


def test_by_name_adding_or_removing_a_file_moves_no_other(tmp_path):
    write(tmp_path, {f"{n % 7}/{n}.txt": "x" * (n + 1) for n in range(60)})
    before = names(source(tmp_path))
    assert 8 <= len(before["val"]) <= 24  # 15 expected, three deviations
    assert len(before["train"]) + len(before["val"]) == 60
    write(tmp_path, {"0/0.md": "y" * 5000, "zz.txt": "z"})
    (tmp_path / before["val"][0]).unlink()
    (tmp_path / before["train"][0]).unlink()
    after = names(source(tmp_path))
    for split in ("train", "val"):
        assert set(before[split][1:]) <= set(after[split])


def test_by_position_is_as_before(tmp_path):
    write(tmp_path, {f"{n}.txt": "x" * (n + 1) for n in range(9)})
    write(tmp_path, {"valid/a.txt": "a", "train/b.txt": "b"})
    (tmp_path / "linked").symlink_to(tmp_path / "valid")
    assert names(source(tmp_path, split="by_position")) == names(
        TextFolder("texts", str(tmp_path), "**/*", 0.25, 0)
    )
    assert {*chain(*names(source(tmp_path, split="by_position")).values())} == {
        *(f"{n}.txt" for n in range(9)),
        *("valid/a.txt", "train/b.txt"),
    }
    with pytest.raises(UserError, match="split=by_size"):
        source(tmp_path, split="by_size")


def test_what_is_no_text_is_left_out_and_counted(tmp_path, capsys):
    write(tmp_path, {"train/a.txt": "\ufeffone ", "train/deep/b.txt": "two ", "val/c.txt": "three"})
    write(
        tmp_path,
        {"train/latin.txt": "caf\xe9".encode("latin-1"), "train/wide.txt": "wide".encode("utf-16-le")},
    )
    write(tmp_path, {"train/bom16.txt": "wide".encode("utf-16"), "train/empty.txt": "", "train/.hidden": "h"})
    write(tmp_path, {"val/__MACOSX/a.txt": "m", ".git/config": "g", "README.md": "beside"})
    os.mkfifo(tmp_path / "train/pipe.txt")
    (tmp_path / "train/lost.txt").symlink_to("nowhere")
    (tmp_path / "train/loop").symlink_to("loop")
    (tmp_path / "train/up").symlink_to(tmp_path)
    odd = os.fsdecode(b"train/\xe9.txt")
    write(tmp_path, {odd: "odd "})
    write(tmp_path / "elsewhere", {"far.txt": "far "})
    (tmp_path / "train/link").symlink_to(tmp_path / "elsewhere")
    data = source(tmp_path)
    assert "skipped 1 no regular file: train/pipe.txt" in (told := capsys.readouterr().out)
    assert "skipped 1 empty files: train/empty.txt" in told
    assert [*data.texts("train")] == ["one ", "two "]  # elsewhere/ itself comes before links to it
    tokenizer = train_tokenizer(["one two three"] * 2, 262)
    path = token_file(tmp_path / "cache", data, "train", tokenizer)
    assert "skipped 2 files that are not UTF-8: train/bom16.txt, train/latin.txt" in capsys.readouterr().out
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    assert manifest["documents"] == ["train/a.txt", "train/deep/b.txt"]
    assert manifest["skipped"] == ["train/bom16.txt", "train/latin.txt", "train/wide.txt"]
    assert manifest["reading"] == {
        "read": 2,
        "converted": {"files with a byte-order mark, left out": 1},
        "skipped": {
            "files that are not UTF-8": 2,
            "files that are not text (they hold NUL bytes)": 1,
            "hidden": 3,
            "no regular file": 1,
            "dangling link": 1,
            "link in a circle": 1,
            "with a name that is not UTF-8": 1,
            "linked again": 2,
            "files beside the splits": 2,
            "empty files": 1,
        },
    }
    assert tokenizer.decode(open_tokens(path, 4).tolist()) == "one two "


def test_a_linked_folder_is_followed(tmp_path):
    write(tmp_path / "far", {"b.txt": "b"})
    write(tmp_path / "root", {"a.txt": "a"})
    (tmp_path / "root/link").symlink_to(tmp_path / "far")
    found = names(source(tmp_path / "root"))
    assert sorted(found["train"] + found["val"]) == ["a.txt", "link/b.txt"]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/a", "val/b"], {"train": ["train/a"], "val": ["val/b"]}),
        (["Train/a", "valid/b", "notes.md"], {"train": ["Train/a"], "val": ["valid/b"]}),
        (["training/a", "dev/b", "test/c"], {"train": ["training/a"], "val": ["dev/b"], "test": ["test/c"]}),
        (["train/a", "test/c"], {"train": ["train/a"], "val": ["test/c"]}),
        (["train.txt", "valid.txt"], {"train": ["train.txt"], "val": ["valid.txt"]}),
        (
            ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"],
            {"train": ["wiki.train.tokens"], "val": ["wiki.valid.tokens"], "test": ["wiki.test.tokens"]},
        ),
        (["train/a", "val/b", "old/c"], {"train": ["train/a"], "val": ["val/b"]}),
        (["train.py", "test.py", "model.py"], None),
        (["training/a", "dev/b", "models/c"], None),
        (["train/a", "train/b"], None),
    ],
)
def test_names_of_splits(tmp_path, files, splits):
    write(tmp_path, dict.fromkeys(files, "text"))
    found = names(source(tmp_path))
    if splits is None:
        assert sorted(found["train"] + found["val"]) == sorted(files) and set(found) == {"train", "val"}
    else:
        assert found == splits


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*", ["a.txt", "b.md", "d/c.txt", "d/e/f.TXT"]),
        ("**/*.txt", ["a.txt", "d/c.txt"]),
        ("*.txt", ["a.txt"]),
        ("d/*/*", ["d/e/f.TXT"]),
        ("d/**/*.[tT]*", ["d/c.txt", "d/e/f.TXT"]),
    ],
)
def test_patterns_are_those_of_pathlib(tmp_path, pattern, found):
    write(tmp_path, dict.fromkeys(["a.txt", "b.md", "d/c.txt", "d/e/f.TXT"], "text\n" * 9))
    assert found == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(pattern) if p.is_file())
    assert sorted({*chain(*names(source(tmp_path, pattern)).values())}) == found


def test_a_pattern_is_below_the_splits_too(tmp_path):
    write(tmp_path, dict.fromkeys(["train/a.txt", "val/b.txt", "val/c.md"], "text"))
    assert names(source(tmp_path, "*.txt")) == {"train": ["train/a.txt"], "val": ["val/b.txt"]}


@pytest.mark.parametrize("text", ["one line\n" * 100, "word " * 100, "\u6f22" * 1000, "ab"])
@pytest.mark.parametrize("as_file", [False, True])
def test_the_end_of_a_single_file_is_held_out(tmp_path, text, as_file, capsys):
    write(tmp_path, {"input.txt": text})
    data = source(tmp_path / "input.txt" if as_file else tmp_path, share=0.1)
    assert "one file, of which the last 10% are val" in capsys.readouterr().out
    (train,), (val,) = data.texts("train"), data.texts("val")
    assert train + val == text
    if len(text) > 2:
        assert len(val) == pytest.approx(0.1 * len(text), abs=10)
        assert train[-1] in "\n \u6f22"
    assert data.identity() != source(tmp_path, share=0.2).identity()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no text"),
        ({"a.txt": ""}, "holds no text"),
        ({".a.txt": "x", ".b/c.txt": "x"}, "holds no text"),
    ],
)
def test_folders_without_text_are_refused(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(UserError, match=message):
        source(tmp_path)


def test_roots_that_are_no_text_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for root in (tmp_path / "gone", tmp_path / "pipe"):
        with pytest.raises(UserError, match="is not a folder"):
            source(root)
    write(tmp_path / "texts", {"train/a.txt": b"\xff\xfe\xfd", "train/b.txt": b"\x80", "val/c.txt": "c"})
    with pytest.raises(UserError, match=r"none of the 2 files of train is UTF-8.*train/a.txt, train/b.txt"):
        [*source(tmp_path / "texts").texts("train")]
