"""A run knows its texts: what has become of them since is refused or told."""

import os
import shutil

import pytest

from mrl_experiments.data.text.text_data import TextData
from mrl_experiments.data.text.text_folder import TextFolder
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import IGNORED


@pytest.fixture
def root(tmp_path):
    for number in range(12):
        path = tmp_path / "texts" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text {number} of some words\n" * 20)
    return tmp_path / "texts"


def data_of(root, name="texts", split="by_name", draw=0, **options):
    source = TextFolder(name, str(root), "**/*", 0.25, draw, split)
    given = dict(
        tokenizer=None, vocabulary=262, length=8, masked=None, eval_tokens=None, batch_size=4, seed=0
    )
    return TextData(
        name=name, source=source, root=None, cache=str(root.parent / "cache"), **{**given, **options}
    )


def trained(root):
    data = data_of(root)
    data.prepare_data()
    return data.state_dict()


def test_the_same_texts_elsewhere_are_the_same(root, tmp_path):
    kept = trained(root)
    copied = shutil.copytree(root, tmp_path / "copied")
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    same = data_of(copied)
    same.load_state_dict(kept)
    assert same.files_known and same.files_identity() == again(root, kept).files_identity()


def again(root, kept, **options):
    data = data_of(root, **options)
    data.load_state_dict(kept)
    return data


def test_changed_new_and_missing_texts_are_named(root, capsys):
    kept = trained(root)
    (root / "3.txt").write_text((root / "3.txt").read_text().replace("words", "wards"))
    (root / "5.txt").unlink()
    (root / "new.txt").write_text("new")
    expected = r"texts of texts are not .*1 new \(new\.txt\), 1 gone \(5\.txt\), 1 changed \(3\.txt\)"
    with pytest.raises(UserError, match=expected):
        again(root, kept)
    again(root, kept, name="others")
    data = data_of(root)
    data.accept_changes = True
    data.load_state_dict(kept)
    assert "1 changed (3.txt)" in capsys.readouterr().out
    assert data.files_identity() == data_of(root).files_identity()


def test_a_text_trained_on_is_never_accepted_in_another_split(root):
    kept = trained(root)
    data = data_of(root, draw=3)
    data.accept_changes = True
    with pytest.raises(UserError, match="trained on, and in another split now"):
        data.load_state_dict(kept)


def test_runs_of_before_did_not_note_their_texts(root):
    kept = trained(root)
    old = {key: kept[key] for key in ("tokenizer", "length", "masked")}
    (root / "5.txt").unlink()
    assert not again(root, old).files_known


def test_damaged_tokens_are_written_again(root, capsys):
    trained(root)
    (path,) = (root.parent / "cache").glob("*/train.tokens")
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    data_of(root).prepare_data()
    assert path.read_bytes() == whole and "is written again" in capsys.readouterr().out


def test_text_shorter_than_a_sequence_is_refused(root):
    with pytest.raises(UserError, match=r"val: the text has \d+ tokens, fewer than one sequence of 5000"):
        data_of(root, length=5000).prepare("val")


@pytest.mark.parametrize("masked", [None, 0.3])
def test_a_predicted_token_is_shown_in_its_text(root, masked):
    data = data_of(root, masked=masked)
    x, y, _ = next(iter(data.dataloader("val")))
    rows = [0, 3, 9]
    places = (y != IGNORED).nonzero()[rows].tolist()
    for shown, (sequence, place) in zip(data.show("val", rows), places, strict=True):
        token = data.tokenizer.decode([int(y[sequence, place])])
        before = x[sequence, : place + (masked is None)].tolist()
        assert shown.startswith(f"{data.tokenizer.decode(before)}[{token}]")
        if masked is None:
            assert shown.endswith("]")
