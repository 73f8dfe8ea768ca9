"""Overrides that Hydra cannot read get quotation marks; all others stay."""

import shlex

import pytest
from commands import ROOT
from composing import composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException

from mrl_experiments.options.typed import GONE, quoted, renamed, replacement


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("data.root=~/photos", "~/photos"),
        ("root=~", "~"),
        ("data.root=~/it's (1)", "~/it's (1)"),
        ("data.root=/data/photos (1)", "/data/photos (1)"),
        ("rows=[~/a/*.csv,~/b]", ["~/a/*.csv", "~/b"]),
        ("data.betons={train:~/a,val: ~/b}", {"train": "~/a", "val": "~/b"}),
        ("tag=#2", "#2"),
        ("prompt=def f(x): return", "def f(x): return"),
        ("+new=~/x", "~/x"),
        ("data.name=données", "données"),
        ("uri=postgresql://me:@/x?host=/tmp/a", "postgresql://me:@/x?host=/tmp/a"),
    ],
)
def test_what_hydra_cannot_read_is_text(typed, value):
    assert OverridesParser.create().parse_override(quoted(typed)).value() == value


def test_a_sweep_stays_one():
    override = OverridesParser.create().parse_override(quoted("data.root=~/a,/b,~/c"))
    assert override.is_sweep_override()
    assert list(override.sweep_string_iterator()) == ["'~/a'", "/b", "'~/c'"]


@pytest.mark.parametrize(
    "typed",
    shlex.split(
        """-m --config-dir=~/x ~data ~data=digits seed=range(0,3) loss=ff,mrl loss.dims=[8,16 'label=a b'
        root=$HOME "prompt='a, ~b'" "data.root='~/x'" x={a:1} y=${oc.env:HOME} hydra/launcher=basic"""
    ),
)
def test_all_else_stays(typed):
    assert quoted(typed) == typed


@pytest.mark.parametrize("name", GONE)
def test_a_recipe_that_has_gone_says_what_replaces_it(name):
    for typed in (name, f"[digits,{name}]"):
        with pytest.raises(MissingConfigException) as missing:
            composed("train", f"experiment={typed}")
        remedy = replacement(str(missing.value), ROOT / "conf")
        assert (ROOT / remedy.rpartition(" ")[2]).is_file()
    assert replacement("Could not find 'experiment/digit'", ROOT / "conf") is None


def test_codes_of_an_index_may_be_typed_by_their_former_word():
    for typed in ("+index@evaluation.indexes.int8=int8", "+codes@evaluation.indexes.int8=int8"):
        cfg = composed("evaluate", "evaluation=adaptive_retrieval", renamed(typed))
        assert cfg.evaluation.indexes.int8.codes == "SQ8"
    assert composed("serve", "run=x", renamed("index=some/folder")).index == "some/folder"
