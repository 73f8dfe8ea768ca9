import os

import pytest

from mrl_experiments.data.kanji.dictionary import KANJIDIC, Character, parse_line, read_kanjidic
from mrl_experiments.errors import UserError

ASIA = "亜 3021 U4e9c B1 C7 G8 S7 XJ05033 F1509 J1 DF1032 Ya4 ア つ.ぐ T1 や {Asia} {rank next} {-ous} "
MUTE = "唖 3022 U5516 B30 S10 XJ13560 DP4354 DR3273 ア {mute} {dumb} "
SUN = "日 467C U65e5 B72 G1 S4 F1 J4 ニチ {day} {sun} "


def test_fields_are_read():
    assert parse_line(ASIA) == Character("亜", "3021", 1, 7, 8, 1509, ("Asia", "rank next", "-ous"))


def test_absent_fields_are_none_and_longer_field_names_are_not_mistaken():
    assert parse_line(MUTE) == Character("唖", "3022", 30, 10, None, None, ("mute", "dumb"))


def test_characters_come_in_the_order_of_how_common_they_are(tmp_path):
    taught = "匂 4677 U5302 B20 G8 S4 におう {fragrant} "
    file = tmp_path / "kanjidic"
    file.write_text("\n".join(["# KANJIDIC", MUTE, taught, ASIA, SUN, ""]), encoding="euc_jp")
    assert "".join(entry.character for entry in read_kanjidic(file)) == "日亜匂唖"


def test_missing_dictionary_names_the_package(tmp_path):
    with pytest.raises(UserError, match=r"apt-get install .*kanjidic"):
        read_kanjidic(tmp_path / "kanjidic")


@pytest.mark.parametrize("content", [b"\xff\xff\xff\n", "亜 3021 no fields".encode("euc_jp")])
def test_a_file_that_is_not_the_dictionary_is_refused(tmp_path, content):
    file = tmp_path / "kanjidic"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not KANJIDIC"):
        read_kanjidic(file)


@pytest.mark.skipif(not KANJIDIC.exists(), reason="needs the package kanjidic")
def test_the_real_dictionary():
    entries = read_kanjidic()
    assert len(entries) == len({entry.character for entry in entries}) == 6355
    ranks = [entry.frequency for entry in entries if entry.frequency]
    assert ranks == sorted(ranks) and len(ranks) == 2501
    assert entries[0].character == "日" and "sun" in entries[0].meanings
    assert all(1 <= entry.radical <= 214 and entry.strokes > 0 for entry in entries)


def test_a_dictionary_that_is_a_pipe_or_damaged_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    whole = "".join(f"{character} 3021 U4e9c B7 S7 {{asia}}\n" for character in "\u4e9c\u5516").encode(
        "euc_jp"
    )
    for name, content in (("cut", whole[:-12]), ("bytes", whole + b"\xff\xff"), ("empty", b" \n")):
        (tmp_path / name).write_bytes(content)
    for name in ("pipe", "loop", "cut", "bytes", "empty"):
        with pytest.raises(UserError, match=name):
            read_kanjidic(tmp_path / name)
