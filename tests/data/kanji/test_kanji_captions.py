"""Characters with their meanings: which split shows which, and what it says of them."""

import pytest
from composing import source_options
from kanji_fonts import needs_fonts

from mrl_experiments.data.kanji.captions import KanjiCaptions
from mrl_experiments.data.kanji.kanji import Kanji
from mrl_experiments.errors import UserError

pytestmark = needs_fonts
SOURCE = source_options("kanji_captions")


def source(**options):
    return KanjiCaptions(**SOURCE | options)


@pytest.fixture(scope="module")
def captions():
    return source()


def test_the_held_out_characters_are_spread_evenly_and_come_last(captions):
    kept = ("name", "first", "num_classes", "splits", "perturbation", "seed")
    plain = Kanji(**{key: SOURCE[key] for key in kept})
    by_frequency = plain.class_names()
    assert sorted(captions.class_names()) == sorted(by_frequency)
    assert captions.class_names()[1000:] == by_frequency[4::5]
    assert captions.class_names()[:4] == by_frequency[:4]


def test_each_split_shows_its_own_characters(captions):
    for split in captions.splits:
        labels = range(1000, 1250) if split == "unseen" else range(1000)
        assert captions.labels(split) == labels
        samples = captions.open(split)
        assert len(samples) == len(labels) * len(captions.faces[split])
        for index in (0, len(labels) - 1, len(samples) - 1):
            assert samples[index][1] == labels[index % len(labels)]
    assert captions.faces["unseen"] == captions.faces["val"]
    assert not {face.family for face in captions.faces["train"]} & {
        face.family for face in captions.faces["unseen"]
    }


def test_captions_are_its_first_meanings_in_each_template(captions):
    sun = captions.captions[captions.class_names().index("\u65e5")]
    assert sun == ["day, sun, Japan, counter for days", *sun[1:]] and len(sun) == 3
    assert sun[1:] == [f"the character for {sun[0]}", f"a glyph that means {sun[0]}"]
    short = source(meanings=1, templates=["{}!"])
    assert short.captions[short.class_names().index("\u65e5")] == ["day!"]


def test_other_held_out_characters_are_other_data(captions):
    assert captions.identity() == source().identity()
    assert captions.identity() != source(unseen=125).identity()
    assert captions.identity() == source(templates=["a {}"]).identity()  # the images stay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": 0}, "unseen=0"),
        ({"unseen": 1250}, "unseen=1250"),
        ({"templates": []}, r"templates=\[\]"),
        ({"templates": ["a glyph"]}, r"a glyph(.|\n)*contain \{\}"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        source(**options)
