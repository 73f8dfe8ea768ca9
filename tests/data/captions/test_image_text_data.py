"""Batches of images with texts: that each text belongs to its image, and in which order they come."""

import shutil

import numpy as np
import pytest
import torch
from captioned import CLASSES, write_table
from composing import composed

from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("captioned"), images=3)


def data_of(table, *overrides):
    given = ["data=image_text_folder", f"data.root={table}", "data.vocabulary=280", "data.length=24"]
    given += ["data.size=32", "data.batch_size=8", "data.loader=torch", "data.workers=1"]
    return construct(composed("train", *given, *overrides).data)


def epoch(data, number):
    """Return (label, text, index) of an epoch's samples."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    found = []
    for (images, texts), labels, index in loader:
        assert images.shape[1:] == (3, 32, 32) and texts.shape == (len(labels), 24)
        found += [
            (label, data.tokenizer.decode(text), sample)
            for label, text, sample in zip(labels.tolist(), texts.tolist(), index.tolist(), strict=True)
        ]
    return found


def test_each_image_comes_with_a_text_of_its_label(table):
    data = data_of(table)
    seen = {text for number in range(3) for label, text, _ in epoch(data, number)}
    train = data.captioned.labels("train")
    for label, text, _ in epoch(data, 0):
        assert label in train and text in data.captioned.captions[label]
    assert seen == {text for label in train for text in data.captioned.captions[label]}


def test_an_epoch_repeats_itself_and_differs_from_others(table):
    data, again = data_of(table), data_of(table, "data.batch_size=5")
    assert epoch(data, 1) == epoch(data, 1) != epoch(data, 2)
    by_sample = {sample: text for _, text, sample in epoch(data, 1)}
    other = {sample: text for _, text, sample in epoch(again, 1)}
    shared = by_sample.keys() & other.keys()
    assert len(shared) > 20 and all(by_sample[sample] == other[sample] for sample in shared)


def test_validation_shows_each_image_once_with_its_first_text(table):
    data = data_of(table)
    indices = []
    for (_, texts), labels, index in data.val_dataloader():
        indices += index.tolist()
        for text, label in zip(texts.tolist(), labels.tolist(), strict=True):
            assert data.tokenizer.decode(text) == data.captioned.captions[label][0]
    assert indices == list(range(3 * len(CLASSES)))


def test_a_split_to_embed_is_its_images_or_its_texts(table):
    data = data_of(table)
    assert data.splits == ("train", "val", "train_text", "val_text")
    assert next(iter(data.dataloader("val")))[0].shape[1:] == (3, 32, 32)
    tokens, labels = zip(*((x, y) for x, y, _ in data.dataloader("val_text")), strict=True)
    texts = [data.tokenizer.decode(row) for row in torch.cat(tokens).tolist()]
    own = [text for label in data.captioned.labels("val") for text in data.captioned.captions[label]]
    assert texts == own
    assert np.unique(torch.cat(labels)).tolist() == list(data.captioned.labels("val"))


def test_a_run_needs_the_vocabulary_and_the_positions_it_was_trained_with(table, tmp_path):
    data = data_of(table)
    kept = data.state_dict()
    data_of(table).load_state_dict(kept)
    data_of(table, "data.length=8").load_state_dict(kept)
    with pytest.raises(UserError, match=r"data\.length=25(.|\n)*at most 24 tokens"):
        data_of(table, "data.length=25").load_state_dict(kept)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(data.tokenizer.content)
    with pytest.raises(UserError, match=r"data\.vocabulary=281, but the tokenizer has 280"):
        data_of(table, f"data.tokenizer={tokenizer}", "data.vocabulary=281")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.vocabulary=100", r"data\.vocabulary=100"),
        ("data.vocabulary=9000", r"data\.vocabulary=9000, but the text gives only \d+ tokens"),
        ("data.tokenizer=/gone/tokenizer.json", "no such tokenizer"),
    ],
)
def test_bad_options_are_refused(table, override, message):
    with pytest.raises(UserError, match=message):
        data_of(table, override)


def test_texts_that_are_cut_are_counted(table, capsys):
    data_of(table, "data.length=4")
    assert "captions are longer than data.length=4 and are cut" in capsys.readouterr().out


def test_other_captions_than_a_runs_are_refused_or_told(table, tmp_path, capsys):
    shutil.copytree(table.parent, tmp_path, dirs_exist_ok=True)
    path, cache = tmp_path / table.name, f"data.cache={tmp_path / 'cache'}"
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(data_of(path, cache).tokenizer.content)
    given = [cache, f"data.tokenizer={tokenizer}"]
    kept = data_of(path, *given).state_dict()
    data_of(path, *given).load_state_dict(kept)
    whole = path.read_text()
    path.write_text(whole.replace("red plain, val", "red and plain, val"))
    with pytest.raises(UserError, match=r"captions .* are not those .*: 1 of val are new or changed, 1 gone"):
        data_of(path, *given).load_state_dict(kept)
    other = data_of(path, *given)
    other.accept_changes = True
    capsys.readouterr()
    other.load_state_dict(kept)
    assert "1 of val are new or changed" in capsys.readouterr().out
    data_of(path, *given, "data.name=other").load_state_dict(kept)
    old = {key: kept[key] for key in ("tokenizer", "length")}  # as runs of before kept it
    data_of(path, *given).load_state_dict(old)


def test_accepted_captions_are_read_with_the_runs_tokenizer(table, tmp_path):
    shutil.copytree(table.parent, tmp_path, dirs_exist_ok=True)
    path, cache = tmp_path / table.name, f"data.cache={tmp_path / 'cache'}"
    data = data_of(path, cache)
    kept = data.state_dict()
    path.write_text(path.read_text().replace("picture", "painting"))
    other = data_of(path, cache)
    other.accept_changes = True
    other.load_state_dict(kept)
    assert other.tokenizer.content == data.tokenizer.content
    ids = next(iter(other.dataloader("val_text")))[0][1].tolist()
    assert "painting" in data.tokenizer.decode(ids)
    assert other.files_identity() != data.files_identity()


def test_images_and_texts_are_shown_as_they_are_embedded(table):
    data = data_of(table)
    texts = [
        data.tokenizer.decode(one) for tokens, *_ in data.dataloader("val_text") for one in tokens.tolist()
    ]
    for row, text in zip((0, 2), data.show("val_text", [0, 2]), strict=True):
        assert texts[row].strip() == text.strip()
    (image,) = data.show("val", [1])
    assert image.dtype == np.uint8 and image.shape[2] == 3
