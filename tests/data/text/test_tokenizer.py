"""Byte-level vocabularies: exact, deterministic, trained once, and refused where they are of another kind."""

import json
import multiprocessing as mp
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_experiments.data.text.tokenizer import (
    END,
    SMALLEST,
    SPECIAL,
    Tokenizer,
    cached_tokenizer,
    train_tokenizer,
)
from mrl_experiments.errors import UserError

TEXTS = [Path(__file__).read_text(encoding="utf-8"), "naïve 漢字 text\n" * 4]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), max_size=4))
def test_any_text_comes_back_and_its_bytes_are_counted(tokenizer, texts):
    lengths = tokenizer.bytes_of_tokens()
    for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
        assert tokenizer.decode(tokens) == text
        assert lengths[tokens].sum() == len(text.encode())


def test_special_tokens_never_come_out_of_a_text(tokenizer):
    (tokens,) = tokenizer.encode(["".join(SPECIAL)])
    special = {tokenizer.end, tokenizer.mask, tokenizer.pad}
    assert special == {0, 1, 2} and not special & set(tokens.tolist())
    assert tokenizer.decode([tokenizer.end, *tokens, tokenizer.pad]) == "".join(SPECIAL)
    assert tokenizer.bytes_of_tokens()[list(special)].tolist() == [0, 0, 0]


def test_repeated_text_becomes_few_tokens_and_training_is_deterministic(tokenizer):
    (tokens,) = tokenizer.encode([TEXTS[0]])
    assert len(tokens) < len(TEXTS[0]) / 2
    assert len(tokenizer) == 400 and tokenizer.identity == train_tokenizer(TEXTS, 400).identity
    assert tokenizer.identity != train_tokenizer(TEXTS, 399).identity


def test_it_is_trained_once_and_again_for_other_texts(tmp_path):
    opened = []

    def texts():
        opened.append(1)
        return TEXTS

    first = cached_tokenizer(tmp_path, "code", {"files": "a"}, texts, 280)
    again = cached_tokenizer(tmp_path, "code", {"files": "a"}, texts, 280)
    assert first.identity == again.identity and len(opened) == 1
    cached_tokenizer(tmp_path, "code", {"files": "b"}, texts, 280)
    cached_tokenizer(tmp_path, "code", {"files": "a"}, texts, 281)
    assert len(opened) == 3
    folders = list(tmp_path.glob("code-*"))
    assert len(folders) == 3
    manifest = json.loads((folders[0] / "tokenizer.json.json").read_text())
    assert manifest["identity"]["vocabulary"] in (280, 281) and len(manifest["sha256"]) == 64


def train_and_count(folder, number):
    def texts():
        (folder / f"opened-{number}").touch()
        return TEXTS

    cached_tokenizer(folder, "code", {}, texts, 280)


def test_of_two_processes_one_trains(tmp_path):
    processes = [mp.get_context("fork").Process(target=train_and_count, args=(tmp_path, n)) for n in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("opened-*"))) == 1


def test_a_cached_file_that_changed_is_written_again(tmp_path):
    cached_tokenizer(tmp_path, "code", {}, lambda: TEXTS, 280)
    (path,) = tmp_path.glob("code-*/tokenizer.json")
    whole = path.read_text()
    path.write_text(whole.replace(END, "<|fin|>"))
    cached_tokenizer(tmp_path, "code", {}, lambda: TEXTS, 280)
    assert path.read_text() == whole


@pytest.mark.parametrize("vocabulary", [0, SMALLEST - 1])
def test_a_vocabulary_too_small_for_all_bytes(vocabulary):
    with pytest.raises(UserError, match=f"vocabulary={vocabulary}(.|\n)*{SMALLEST} or more"):
        train_tokenizer(TEXTS, vocabulary)


def test_a_vocabulary_larger_than_the_text_gives():
    with pytest.raises(UserError, match=r"the text gives only \d+ tokens"):
        train_tokenizer(TEXTS, 5000)


def test_files_that_are_no_tokenizer_of_ours(tmp_path):
    with pytest.raises(UserError, match="no such tokenizer"):
        Tokenizer.load(tmp_path / "missing.json")
    with pytest.raises(UserError, match="is not a tokenizer"):
        Tokenizer("{}")
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE()).to_str()
    with pytest.raises(UserError, match=r"does not begin with <\|end\|>"):
        Tokenizer(foreign)


def test_tokens_are_numbers_of_the_vocabulary(tokenizer):
    (tokens,) = tokenizer.encode(["\x00\xff"])
    assert tokens.dtype == np.int64 and tokens.max() < len(tokenizer)
