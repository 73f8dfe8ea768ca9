"""Texts of labels as tokens of one length."""

import numpy as np
import pytest
import torch

from mrl_experiments.data.captions.captions import Captions, identity_of
from mrl_experiments.data.text.tokenizer import train_tokenizer

TEXTS = [["sun", "day, sun and time"], ["one"], ["tree", "wood", "a tree in a wood", "timber"]]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for one in TEXTS for text in one], 265)


def test_tokens_are_those_of_each_text_with_padding_behind(tokenizer):
    captions = Captions(TEXTS, tokenizer, 40)
    flat = [text for one in TEXTS for text in one]
    assert captions.cut == 0
    for row, text in zip(captions.tokens, flat, strict=True):
        (alone,) = tokenizer.encode([text])
        assert row[: len(alone)].tolist() == alone.tolist()
        assert (row[len(alone) :] == tokenizer.pad).all()
        assert tokenizer.decode(row) == text


def test_what_is_too_long_is_cut_and_counted(tokenizer):
    captions = Captions(TEXTS, tokenizer, 3)
    lengths = [len(tokens) for tokens in tokenizer.encode([text for one in TEXTS for text in one])]
    assert captions.cut == sum(length > 3 for length in lengths) > 0
    (whole,) = tokenizer.encode(["a tree in a wood"])
    assert captions.tokens[5].tolist() == whole[:3].tolist()


def test_the_texts_of_some_labels(tokenizer):
    captions = Captions(TEXTS, tokenizer, 40)
    rows, labels = captions.of([0, 2])
    assert labels.tolist() == [0, 0, 2, 2, 2, 2]
    assert [tokenizer.decode(captions.tokens[row]) for row in rows] == TEXTS[0] + TEXTS[2]
    first = captions.first(torch.tensor([2, 0, 2]))
    assert [tokenizer.decode(row.tolist()) for row in first] == ["tree", "sun", "tree"]


def test_draws_follow_from_seed_epoch_and_sample_alone(tokenizer):
    captions = Captions(TEXTS, tokenizer, 40)
    labels, index = torch.arange(3).repeat(2000), torch.arange(6000)
    drawn = captions.drawn(labels, index, 0, 1)
    texts = np.array([tokenizer.decode(row.tolist()) for row in drawn])
    for label, own in enumerate(TEXTS):  # each equally often: five deviations of a binomial
        share = 1 / len(own)
        shares = [(texts[label::3] == text).mean() for text in own]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([share] * len(own), abs=5 * (share * (1 - share) / 2000) ** 0.5 + 1e-9)
    order = torch.randperm(6000)
    assert torch.equal(captions.drawn(labels[order], index[order], 0, 1), drawn[order])
    for seed, epoch in ((0, 2), (1, 1)):
        assert not torch.equal(captions.drawn(labels, index, seed, epoch), drawn)


def test_a_vocabulary_is_keyed_by_texts_and_their_owners():
    assert identity_of(TEXTS) == identity_of([list(one) for one in TEXTS])
    assert identity_of([["a", "b"], ["c"]]) != identity_of([["a"], ["b", "c"]])
