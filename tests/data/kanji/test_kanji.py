import pickle
from pathlib import Path

import numpy as np
import pytest
from composing import source_options
from kanji_fonts import needs_fonts

from mrl_experiments.data.kanji.faces import Face, find_faces
from mrl_experiments.data.kanji.kanji import Glyphs, Kanji
from mrl_experiments.data.kanji.render import Perturbation
from mrl_experiments.errors import UserError

pytestmark = needs_fonts


@pytest.fixture(scope="module")
def kanji1k():
    return Kanji(**source_options("kanji1k"))


@pytest.fixture(scope="module")
def kanji4k():
    return Kanji(**source_options("kanji4k"))


def test_kanji1k_holds_every_character_in_every_face(kanji1k):
    assert kanji1k.num_classes == len(set(kanji1k.class_names())) == 1000
    sizes = {split: len(kanji1k.open(split)) for split in kanji1k.splits}
    assert sizes == {
        "train": 101_000,
        "val": 11_000,
        "v2": 11_000,
        "sketch": 14_000,
        "display": 5_000,
        "bitmap": 4_000,
    }


def test_families_are_held_out(kanji1k):
    families = {split: {face.family for face in faces} for split, faces in kanji1k.faces.items()}
    assert families.pop("v2") == families["val"]
    assert sum(map(len, families.values())) == len(set().union(*families.values()))


def test_kanji4k_shares_no_character_with_kanji1k(kanji1k, kanji4k):
    assert len(set(kanji4k.class_names())) == 4000
    assert not set(kanji4k.class_names()) & set(kanji1k.class_names())
    assert len(kanji4k.open("database")) >= 350_000
    assert not set(kanji4k.faces["database"]) & set(kanji4k.faces["query"])


@pytest.mark.parametrize("split", ["train", "val", "v2", "sketch", "display", "bitmap"])
def test_images_show_something_and_labels_follow_the_faces(kanji1k, split):
    samples = kanji1k.open(split)
    for index in range(0, len(samples), len(samples) // 40):
        image, label = samples[index]
        assert image.shape == (32, 32, 1) and image.dtype == np.uint8
        assert label == index % 1000
        assert image.std() > 5


def test_a_sample_is_the_same_whenever_and_wherever_it_is_drawn(kanji1k):
    samples = kanji1k.open("val")
    again = pickle.loads(pickle.dumps(Kanji(**source_options("kanji1k")).open("val")))
    for index in (10_999, 3, 5_000):
        np.testing.assert_array_equal(samples[index][0], again[index][0])


def test_seed_split_and_index_each_change_the_perturbation(kanji1k):
    faces, bounds = tuple(kanji1k.faces["val"][:1]), kanji1k.perturbation["val"]
    images = [
        Glyphs("日日", faces, bounds, split, seed)[index][0].tobytes()
        for split in ("val", "train")
        for seed in (0, 1)
        for index in (0, 1)
    ]
    assert len(set(images)) == 8


def test_v2_is_perturbed_more(kanji1k):
    mild, strong = kanji1k.perturbation["val"], kanji1k.perturbation["v2"]
    assert strong.contrast < mild.contrast
    assert all(
        getattr(strong, key) > getattr(mild, key)
        for key in ("rotation", "scale", "shear", "shift", "blur", "background", "noise", "occlusion")
    )


def test_a_glyph_that_a_face_lacks_comes_from_the_next_face():
    narrow = next(face for face in find_faces(["val"], 1000) if face.family == "Sawarabi Mincho")
    wide = next(face for face in find_faces(["val"], 1000) if face.family == "Konatu")
    clean = Perturbation()
    rare = "瀋"
    substitute = Glyphs(rare, (narrow, wide), clean, "val", 0)[0][0]
    np.testing.assert_array_equal(substitute, Glyphs(rare, (wide,), clean, "val", 0)[0][0])
    with pytest.raises(UserError, match=rare):
        Glyphs(rare, (narrow,), clean, "val", 0)[0]


def test_broken_glyphs_count_as_lacking(tmp_path):
    """FreeType refuses every glyph of this face of Ume at this size (`invalid opcode`)."""
    path = next(Path("/usr/share/fonts").rglob("ume-tgs5.ttf"))
    with pytest.raises(UserError, match="日"):
        Glyphs("日", (Face("Ume", path, 0),), Perturbation(), "train", 0)[0]


def test_indices_outside_are_refused(kanji1k):
    samples = kanji1k.open("bitmap")
    for index in (-1, len(samples)):
        with pytest.raises(IndexError):
            samples[index]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_classes": 999},
        {"splits": {"train": ["train"], "val": ["sketch"]}},
        {"perturbation": {"default": {"rotation": 11}}},
    ],
)
def test_whatever_changes_pixels_changes_the_identity(kanji1k, change):
    assert Kanji(**{**source_options("kanji1k"), **change}).identity() != kanji1k.identity()
    assert Kanji(**source_options("kanji1k")).identity() == kanji1k.identity()


def test_manifest_describes_classes_and_faces(kanji1k):
    manifest = kanji1k.manifest("display")
    first = manifest["characters"][0]
    assert first["character"] == manifest["classes"][0] == "日"
    assert {"radical", "grade", "strokes", "frequency", "meanings"} <= first.keys()
    assert manifest["faces"][0]["file"] == "ReggaeOne-Regular.ttf"


def test_unknown_groups_and_too_many_characters_are_refused():
    with pytest.raises(UserError, match="handwriting"):
        Kanji(**{**source_options("kanji1k"), "splits": {"train": ["handwriting"]}})
    with pytest.raises(UserError, match="at most 6355"):
        Kanji(**{**source_options("kanji4k"), "num_classes": 6000})
