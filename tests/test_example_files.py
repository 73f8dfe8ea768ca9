"""The file of examples: what is written is read, and anything else is one line."""

import json
from dataclasses import asdict, replace

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.examples import (
    Confusion,
    Examples,
    Query,
    Sample,
    Sheet,
    Stage,
    plain_text,
    read_sheets,
    write_sheets,
)

DOT = "data:image/png;base64,iVBORw0KGgo="
SAMPLES = [Sample(True, 3, 0, "ant", picture=DOT), Sample(False, 9, 1, "bee", text="a <b>bee</b>")]
QUERY = Query(0, [[1], [1]], [Stage(8, 20, 2, [1]), Stage(64, 5, 2, [1])])
SHEET = Sheet(
    run="mrl_s0", method="mrl", model="resnet", dataset="zoo", split="val", reduction="prefix", label="",
    seed=0, examples=Examples([8, 64], [0.5, 1], [QUERY], [Confusion(0, 1, [4, 0], 9)], SAMPLES),
)  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    rows = tmp_path / "rows.csv"
    assert read_sheets(rows) == []
    write_sheets(rows, [SHEET, replace(SHEET, seed=None)])
    assert read_sheets(rows) == [SHEET, replace(SHEET, seed=None)]
    assert (tmp_path / "rows.json").exists()


def first(sheet: dict) -> dict:
    return sheet["examples"]["samples"][0]


DAMAGES = {
    "no picture": lambda s: first(s).update(picture="javascript:alert(1)"),
    "a picture that leads away": lambda s: first(s).update(picture="https://example.org/x.png"),
    "a vector graphic": lambda s: first(s).update(picture="data:image/svg+xml;base64,AAAA"),
    "a large picture": lambda s: first(s).update(picture=DOT + "A" * 40_000),
    "a control character": lambda s: s["examples"]["samples"][1].update(text="a\x1b[2J"),
    "a long name": lambda s: s["examples"]["samples"][1].update(name="x" * 301),
    "a sample that is not there": lambda s: s["examples"]["queries"][0].update(sample=2),
    "one before the first": lambda s: s["examples"]["queries"][0]["near"][0].append(-1),
    "a neighbour that is not there": lambda s: s["examples"]["queries"][0]["funnel"][0]["first"].append(7),
    "a dim too many": lambda s: s["examples"]["dims"].append(128),
    "a count too few": lambda s: s["examples"]["confusions"][0]["counts"].pop(),
    "a text for a number": lambda s: s["examples"]["dims"].__setitem__(0, "8"),
    "a truth for a number": lambda s: s["examples"]["dims"].__setitem__(0, True),
    "no number": lambda s: s["examples"]["top1"].__setitem__(0, float("nan")),
    "another key": lambda s: s.update(more=1),
    "a key less": lambda s: s.pop("run"),
    "no object": lambda s: s.update(examples=[]),
    "too many": lambda s: s["examples"].update(dims=[8] * 10_001),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_anything_else_is_refused_by_the_files_name(damage, tmp_path):
    sheet = json.loads(json.dumps(asdict(SHEET)))
    DAMAGES[damage](sheet)
    (tmp_path / "rows.json").write_text(json.dumps({"sheets": [sheet]}))
    with pytest.raises(UserError, match=r"rows\.json is no file of examples") as raised:
        read_sheets(tmp_path / "rows.csv")
    assert raised.value.remedy


@pytest.mark.parametrize("content", ["", "[]", '{"sheets": 1}', "{" * 10_000, '{"sheets": []', "\x00"])
def test_a_damaged_file_is_an_error_with_its_name(content, tmp_path):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(UserError, match=r"rows\.json"):
        read_sheets(tmp_path / "rows.csv")


def test_a_changed_or_huge_file_is_an_error(tmp_path, monkeypatch):
    write_sheets(tmp_path / "rows.csv", [SHEET])
    path = tmp_path / "rows.json"
    path.write_text(path.read_text().replace('"ant"', '"ape"'))
    with pytest.raises(UserError, match="changed since"):
        read_sheets(tmp_path / "rows.csv")
    monkeypatch.setattr("mrl_experiments.examples.MOST_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_sheets(tmp_path / "rows.csv")


def test_text_is_kept_in_one_line_that_ends(tmp_path):
    assert plain_text("a\n\tb\x00 c\ud800") == "a b c"
    assert len(plain_text("word " * 100)) == 300 and plain_text("word " * 100).endswith("…")
