"""Mappings of names as people write them."""

import os

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.files import read_mapping, read_text

PAIRS = {"golden retriever": "dog", "tench, fish": "fish", "caf\u00e9": "place"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_csv(tmp_path, encoding, end):
    lines = ["name,kind", "golden retriever , dog", '"tench, fish",fish', "caf\u00e9,place,,", ",,", ""]
    (tmp_path / "map.csv").write_bytes(end.join(lines).encode(encoding))
    assert read_mapping(tmp_path / "map.csv") == PAIRS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json(tmp_path, encoding):
    text = '{"golden retriever": "dog", "tench, fish": "fish", "caf\u00e9": "place", "digest": 3}'
    (tmp_path / "map.JSON").write_bytes(text.encode(encoding))
    assert read_mapping(tmp_path / "map.JSON") == {**PAIRS, "digest": "3"}


def test_a_first_line_with_a_known_name_is_no_heading(tmp_path):
    (tmp_path / "map.csv").write_text("cat,pet\ndog,pet\n")
    assert read_mapping(tmp_path / "map.csv") == {"dog": "pet"}
    assert read_mapping(tmp_path / "map.csv", ["dog", "cat"]) == {"cat": "pet", "dog": "pet"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("map.csv", "a,b\ncat,dog,owl\nx\ny,z\n", r"2 lines have not two columns: line 2, 3"),
        ("map.csv", 'a,b\n"cat,dog\nx,y\n', "unexpected end of data"),
        ("map.csv", "", "it is empty"),
        ("map.csv", "a,b\ncat,x\ncat,y\ndog,z\ndog,z\n", "1 names are mapped to different ones: cat"),
        ("map.csv", "a,b\n,x\n", "it has empty names"),
        ("map.csv", "a,b\ncat,\n", "it has empty names"),
        ("map.csv", "a,b\ncaf\u00e9,x\n".encode("latin-1"), "is not UTF-8 text: line 2"),
        ("map.json", '{"cat": "x", "cat": "y"}', "1 names are mapped to different ones: cat"),
        ("map.json", '["cat"]', "holds a list"),
        ("map.json", '{"cat": ["x"]}', r"cat has \['x'\]"),
        ("map.json", '{"cat": {"x": "y"}}', "cat has .*not one name"),
        ("map.json", '{"cat": true}', "cat has True"),
        ("map.json", "[" * 100_000, "is no mapping"),
        ("map.json", '{"cat"', "is no mapping"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_mapping(tmp_path / name)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, message in (("pipe.csv", "is a pipe"), ("loop.csv", "does not exist"), ("", "is a folder")):
        with pytest.raises(UserError, match=message):
            read_mapping(tmp_path / name)
    with pytest.raises(UserError, match="circle"):
        read_text(tmp_path / "loop.csv")
