"""Files of result rows: what is written comes back, what is no such file is named."""

import os
import zlib
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.results import (
    Measurement,
    ResultRow,
    Setting,
    read_rows,
    read_setting,
    with_new_rows,
    write_rows,
)

ROW = ResultRow(
    run="mrl", method="mrl", model="resnet10t", dataset="digits", split="val", evaluation="knn",
    reduction="prefix", dim=8, trained=True, setting={"k": 1}, metric="top1", value=0.5, seed=0,
)  # fmt: skip
NAMES = ["a,b", 'x"y', "</script>", "$(id)", "=1+1", "日本", "😀👩‍👩‍👧", "\u202egnp", "\u2028", " padded "]


@pytest.fixture
def text(tmp_path) -> list[str]:
    """Return the lines of a file as it was before rows had checksums."""
    write_rows(tmp_path / "sound.csv", [ROW, replace(ROW, dim=16)])
    return [line.rpartition(",")[0] for line in (tmp_path / "sound.csv").read_text().splitlines()]


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [replace(ROW, run=name, label=name, setting={"within": name}) for name in NAMES]
    rows += [replace(ROW, value=inf), replace(ROW, value=-inf), replace(ROW, seed=None, trained=False)]
    write_rows(tmp_path / "rows.csv", [*rows, replace(ROW, value=nan)])
    *found, last = read_rows(tmp_path / "rows.csv")
    assert found == rows and isnan(last.value)


@pytest.mark.parametrize(
    ("cell", "other"), [("0.5", "0.7"), ("top1", "top5"), ("mrl,", "mrk,"), (",16,", ",17,")]
)
def test_a_row_that_has_changed_is_named_unless_the_checksums_were_removed(cell, other, tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(path, [ROW, replace(ROW, dim=16)])
    changed = path.read_text().splitlines()
    changed[2] = changed[2].replace(cell, other, 1)
    path.write_text("\n".join(changed))
    with pytest.raises(UserError, match="line 3 has changed since it was written"):
        read_rows(path)
    path.write_text("\n".join(line.rpartition(",")[0] for line in changed))
    assert len(read_rows(path)) == 2


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path, text):
    (tmp_path / "rows.csv").write_text("\ufeff" + "\n".join(text), encoding="utf-8")
    assert read_rows(tmp_path / "rows.csv")[0] == ROW


SETTINGS = {
    "": {},
    "k=10 draw=3": {"k": 10, "draw": 3},
    "policy=risk_control drop=0.0025 delta=0.1 tta=flip": {
        "policy": "risk_control", "drop": 0.0025, "delta": 0.1, "tta": "flip",
    },
    "index=flat stages=8:200>16:10": {"index": "flat", "stages": ((8, 200), (16, 10))},
    "quantile=5%": {"quantile": 5},
    "codes=IVF4,Flat effort= within=1_0 shots=007 of=50% p=nan": {
        "codes": "IVF4,Flat", "effort": "", "within": "1_0", "shots": "007", "of": "50%", "p": "nan",
    },
}  # fmt: skip


@pytest.mark.parametrize("old", SETTINGS)
def test_settings_of_rows_written_before_are_mappings_and_come_back_from_json(old, tmp_path, text):
    found = read_setting(old)
    assert found == SETTINGS[old] and str(found) == old
    write_rows(tmp_path / "rows.csv", [replace(ROW, setting=found)])
    (row,) = read_rows(tmp_path / "rows.csv")
    assert row.setting == found and hash(row.setting) == hash(found)
    (tmp_path / "old.csv").write_text("\n".join([text[0], text[1].replace('"{""k"": 1}"', f'"{old}"')]))
    assert read_rows(tmp_path / "old.csv")[0] == row


def test_settings_are_equal_whatever_their_order_and_type():
    one, other = Setting({"k": 1.0, "drop": 0.5}), Setting(drop=0.5, k=1)
    assert one == other and hash(one) == hash(other) and str(one) == "k=1 drop=0.5"
    assert Measurement(8, "top1", 0.5, {"k": 1}) == Measurement(8, "top1", 0.5, Setting(k=1))
    assert Measurement(8, "top1", 0.5).setting == {}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ('{"k": 1', "line 2: "),
        ('{"k": null}', "line 2: 'None' in a setting"),
        ('{"k": NaN}', "line 2: 'nan' in a setting"),
        ('{"k": 1e999}', "line 2: 'inf' in a setting"),
        ('{"k": {"a": 1}}', "line 2: "),
        ('{"k": "a\\u0000b"}', "line 2: a control character"),
        ('{"k": ' + "[" * 100_000, "line 2: a setting of lists inside lists"),
    ],
)
def test_a_damaged_setting_is_named_with_its_line(setting, reason, tmp_path, text):
    quoted = setting.replace('"', '""')
    (tmp_path / "rows.csv").write_text("\n".join([text[0], text[1].replace('{""k"": 1}', quoted)]))
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path / "rows.csv")
    assert reason in caught.value.problem


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line.replace(",8,", ",eight,"), "line 2: 'eight' is no whole number"),
        (lambda line: line.replace(",8,", ",8.0,"), "line 2: '8.0' is no whole number"),
        (lambda line: line.replace(",8,", ",²,"), "line 2: '²' is no whole number"),
        (lambda line: line.replace(",8,", ",0,"), "line 2 has the dim 0"),
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
        (b"\x89PNG\r\n\x1a\n\0\0", "utf-8"),
        ("run,méthode\n".encode("latin-1"), "utf-8"),
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


def row(**changed):
    return replace(ROW, **changed)


def test_new_rows_take_the_place_of_those_of_the_same_measurement_alone():
    there = [
        row(setting={"k": 1}), row(setting={"k": 5}), row(dim=16), row(metric="top5"), row(split="shift"),
        row(label="native widths"),
    ]  # fmt: skip
    for number, former in enumerate(there):
        new = replace(former, value=0.75, run="renamed", seed=3, trained=False)
        assert with_new_rows(there, [new]) == [*there[:number], *there[number + 1 :], new]
    other = row(setting={"k": 3})
    assert with_new_rows(there, [other]) == [*there, other]


def test_draws_and_deviations_go_with_their_mean():
    there = [
        *(row(setting={"k": 1, "draw": draw}) for draw in range(3)), row(setting={"k": 1}),
        row(setting={"k": 1}, metric="top1_std"), row(setting={"k": 1}, metric="top1_ci95"),
    ]  # fmt: skip
    assert with_new_rows(there, [row(value=0.25)]) == [row(value=0.25)]


def test_a_choice_of_index_auto_takes_the_place_of_the_last():
    there = [row(dim=16, setting={"index": "auto", "codes": "IVF8,SQ8"}, metric="mAP@10")]
    chosen = row(dim=32, setting={"index": "auto", "codes": "HNSW32"}, metric="mAP@10")
    other = row(dim=16, setting={"index": "flat"}, metric="mAP@10")
    assert with_new_rows([*there, other], [chosen]) == [other, chosen]


def test_rows_of_before_embeddings_were_noted_keep_their_checksums(tmp_path):
    heading = (
        "run,method,model,dataset,split,evaluation,reduction,dim,trained,setting,metric,value,seed,label"
    )
    cells = [
        "mrl",
        "mrl",
        "resnet10t",
        "digits",
        "val",
        "knn",
        "prefix",
        "8",
        "true",
        '{"k": 1}',
        "top1",
        "0.5",
    ]
    checksum = zlib.crc32("\n".join([*cells, "0", ""]).encode())
    line = ",".join([*('"{""k"": 1}"' if cell.startswith("{") else cell for cell in cells), "0", ""])
    (tmp_path / "rows.csv").write_text(f"{heading},crc32\n{line},{checksum:08x}\n")
    assert read_rows(tmp_path / "rows.csv") == [ROW]
    write_rows(tmp_path / "rows.csv", [ROW, row(embeddings="0123456789abcdef")])
    text = (tmp_path / "rows.csv").read_text()
    assert f"{checksum:08x}" in text and read_rows(tmp_path / "rows.csv")[1].embeddings
    (tmp_path / "rows.csv").write_text(text.replace("0123456789", "9876543210"))
    with pytest.raises(UserError, match="line 3 has changed"):
        read_rows(tmp_path / "rows.csv")
