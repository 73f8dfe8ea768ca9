"""Files of result rows: what is written comes back, what is no such file is named."""

import os
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.results import ResultRow, read_rows, write_rows

ROW = ResultRow(
    run="mrl", method="mrl", model="resnet10t", dataset="digits", split="val", evaluation="knn",
    reduction="prefix", dim=8, trained=True, setting="k=1", metric="top1", value=0.5, seed=0,
)  # fmt: skip
NAMES = ["a,b", 'x"y', "</script>", "$(id)", "=1+1", "日本", "😀👩‍👩‍👧", "\u202egnp", "\u2028", " padded "]


@pytest.fixture
def text(tmp_path) -> list[str]:
    write_rows(tmp_path / "sound.csv", [ROW, replace(ROW, dim=16)])
    return (tmp_path / "sound.csv").read_text().splitlines()


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [replace(ROW, run=name, label=name, setting=name) for name in NAMES]
    rows += [replace(ROW, value=inf), replace(ROW, value=-inf), replace(ROW, seed=None, trained=False)]
    write_rows(tmp_path / "rows.csv", [*rows, replace(ROW, value=nan)])
    *found, last = read_rows(tmp_path / "rows.csv")
    assert found == rows and isnan(last.value)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path, text):
    (tmp_path / "rows.csv").write_text("\ufeff" + "\n".join(text), encoding="utf-8")
    assert read_rows(tmp_path / "rows.csv")[0] == ROW


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line.replace(",8,", ",eight,"), "line 2: 'eight' is no whole number"),
        (lambda line: line.replace(",8,", ",8.0,"), "line 2: '8.0' is no whole number"),
        (lambda line: line.replace(",8,", ",²,"), "line 2: '²' is no whole number"),
        (lambda line: line.replace(",8,", ",0,"), "line 2 has the size 0"),
        (lambda line: line.replace(",8,", ",-8,"), "line 2: '-8' is no whole number"),
        (lambda line: line.replace(",8,", f",{'9' * 5000},"), "line 2: '9999"),
        (lambda line: line.replace(",0.5,", ",much,"), "line 2: could not convert string to float: 'much'"),
        (lambda line: line.replace(",true,", ",yes,"), "line 2: 'yes' is neither true nor false"),
        (lambda line: line.replace(",0,", ",first,"), "line 2: 'first' is no whole number"),
        (lambda line: line.rpartition(",")[0], "line 2 has fewer cells"),
        (lambda line: line + ",more", "line 2 has more cells"),
        (lambda line: line.replace("mrl", "m\0rl", 1), "line 2 has a control character"),
        (lambda line: line.replace("mrl", "m\x1b[2Jrl", 1), "line 2 has a control character"),
        (lambda line: line.replace("mrl", '"m\nrl"', 1), "line 3 has a control character"),
        (lambda line: '"' + line, "cells than the heading"),
        (lambda line: "x" * 200_000 + line, "field larger than field limit"),
    ],
)
def test_a_damaged_row_is_named_with_its_line(change, reason, tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([text[0], change(text[1]), text[2]]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.csv") as caught:
        read_rows(path)
    assert reason in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "lacks the columns"),
        (b"a,b\n1,2\n", "lacks the columns"),
        (b"\x89PNG\r\n\x1a\n\0\0", "no text in UTF-8"),
        ("run,méthode\n".encode("latin-1"), "no text in UTF-8"),
        (bytes(range(200, 250)) + b"\xff", "is no"),
    ],
)
def test_what_is_no_table_of_rows_is_named(content, reason, tmp_path):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.csv") as caught:
        read_rows(tmp_path / "rows.csv")
    assert reason in caught.value.problem


def test_a_heading_alone_holds_no_rows_and_twice_the_same_column_is_refused(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text[0] + "\n")
    assert read_rows(tmp_path / "rows.csv") == []
    (tmp_path / "rows.csv").write_text(f"{text[0]},dim\n{text[1]},8\n")
    with pytest.raises(UserError, match="twice"):
        read_rows(tmp_path / "rows.csv")


def test_what_cannot_be_opened_is_named_and_does_not_hang(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            read_rows(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_an_unreadable_file_is_named(tmp_path):
    path: Path = tmp_path / "rows.csv"
    write_rows(path, [ROW])
    path.chmod(0)
    with pytest.raises(UserError, match="permission denied"):
        read_rows(path)
