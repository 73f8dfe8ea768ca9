import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from kanji_fonts import needs_fonts
from PIL import Image

from mrl_experiments.data.kanji.dictionary import read_kanjidic
from mrl_experiments.data.kanji.faces import FAMILIES, FONTS, GROUPS, Face, find_faces, fingerprint
from mrl_experiments.data.kanji.render import draw
from mrl_experiments.errors import UserError

PACKAGES = Path(__file__).parents[3] / "scripts/system/fonts.txt"


def test_no_family_is_in_two_groups():
    groups = {}
    for family in FAMILIES:
        assert groups.setdefault(family.name, family.group) == family.group
    assert set(groups.values()) == set(GROUPS)


def test_no_file_is_listed_twice():
    files = [file for family in FAMILIES for file in family.files]
    assert len(files) == len(set(files))


def test_package_list_is_what_the_table_needs():
    listed = {line for line in PACKAGES.read_text().splitlines() if not line.startswith("#")}
    assert listed == {family.package for family in FAMILIES} | {"kanjidic"}


def test_missing_fonts_name_the_command_that_installs_just_those(tmp_path):
    klee = next(family for family in FAMILIES if family.name == "Klee One")
    for family in FAMILIES:
        for file in family.files if family is not klee else ():
            (tmp_path / file).touch()
    with pytest.raises(UserError, match=r"KleeOne-Regular\.ttf") as caught:
        find_faces(GROUPS, 1000, root=tmp_path)
    assert re.search(r"apt-get install .* fonts-klee\n", caught.value.remedy)
    assert len(find_faces(["display"], 1000, root=tmp_path)) == 5


def test_other_fonts_change_nothing(tmp_path):
    for family in FAMILIES:
        for file in family.files:
            (tmp_path / file).touch()
    before = find_faces(GROUPS, 1000, root=tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Another.ttf").touch()
    assert find_faces(GROUPS, 1000, root=tmp_path) == before


def test_faces_that_lack_characters_are_left_out_of_larger_sets(tmp_path):
    for family in FAMILIES:
        for file in family.files:
            (tmp_path / file).touch()
    few, many = (find_faces(["val"], covers, root=tmp_path) for covers in (1000, 5000))
    assert {face.family for face in few} - {face.family for face in many} == {
        "Sawarabi Gothic",
        "Sawarabi Mincho",
    }


def test_fingerprint_sees_the_table_of_checksums_and_the_size(tmp_path):
    font = tmp_path / "a.ttf"
    seen = set()
    for content in (b"a" * 5000, b"b" + b"a" * 4999, b"a" * 5001):
        font.write_bytes(content)
        seen.add(fingerprint(font))
    assert len(seen) == 3


def outline(face, character):
    """The glyph stretched to 16x16 and normalised: equal up to weight and size for one design."""
    glyph = draw(face, character)
    if glyph is None:
        return np.zeros(256)
    pixels = np.asarray(glyph.resize((16, 16), Image.Resampling.BOX), dtype=float).ravel()
    pixels -= pixels.mean()
    return pixels / np.linalg.norm(pixels)


@needs_fonts
def test_no_two_groups_hold_near_twins():
    """Faces of one design correlate above 0.95 in some weight; independent designs stay below 0.92."""
    characters = [entry.character for entry in read_kanjidic()[5:1000:40]]
    outlines = {
        group: np.stack(
            [
                [outline(face, character) for character in characters]
                for face in find_faces([group], 1000)
                if face.member in (0, 2) or not face.family.startswith("Noto")
            ]
        )
        for group in GROUPS
    }
    for one, other in combinations(GROUPS, 2):
        alike = np.einsum("fcp,gcp->fg", outlines[one], outlines[other]) / len(characters)
        assert alike.max() < 0.92, (one, other)
    japan, korea = (
        np.stack([outline(Face("Noto", bold, member), character) for character in characters])
        for bold in FONTS.rglob("NotoSansCJK-Bold.ttc")
        for member in (0, 1)
    )
    assert np.einsum("cp,cp->", japan, korea) / len(characters) > 0.95  # the measure does see twins


@needs_fonts
@pytest.mark.parametrize("covers", [1000, 5000])
@pytest.mark.slow
def test_every_face_draws_nearly_all_it_is_said_to_cover(covers):
    characters = [entry.character for entry in read_kanjidic()[:covers]][:: covers // 100]
    for face in find_faces(GROUPS, covers):
        if face.member == 0:
            assert sum(draw(face, character) is None for character in characters) <= 3, face


def test_font_files_that_are_pipes_or_lost_count_as_missing(tmp_path):
    os.mkfifo(tmp_path / "Konatu.ttf")
    (tmp_path / "MTLc3m.ttf").symlink_to("MTLc3m.ttf")
    (tmp_path / "MTLmr3m.ttf").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"\d+ font files are not installed") as caught:
        find_faces(["val"], 100, tmp_path)
    for package in ("fonts-konatu", "fonts-motoya-l-cedar", "fonts-motoya-l-maruberi"):
        assert package in str(caught.value)


def test_a_damaged_font_is_named(tmp_path):
    for content in (b"", b"\0\1\0\0" + bytes(200)):
        (tmp_path / "x.ttf").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.ttf cannot be read as a font"):
            draw(Face("X", tmp_path / "x.ttf", 0), "\u4e9c")
