"""Byte-level vocabularies: exact, deterministic, trained once, and refused where they are of another kind."""

import json
import multiprocessing as mp
import time
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
    _pieces,
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


def test_text_without_blanks_is_learned_in_pieces_and_other_text_as_it_is():
    for text in (*TEXTS, "", "x" * 1000, " " * 1000, "\n"):
        assert [*_pieces(text)] == [text]
    for text in ("x" * 1001, "漢" * 5000, "a " + "b" * 2500 + " c", " " * 3001):
        pieces = [*_pieces(text)]
        assert "".join(pieces) == text and max(map(len, pieces)) <= 1002 and len(pieces) > 1


@pytest.mark.slow
def test_text_without_blanks_takes_linear_time():
    random = np.random.default_rng(0)
    text = "".join(map(chr, 0x4E00 + random.geometric(1 / 300, 400_000)))
    started = time.monotonic()
    tokenizer = train_tokenizer([text], 1000)
    (tokens,) = tokenizer.encode([text])
    assert time.monotonic() - started < 60  # minutes to hours where it is quadratic
    assert tokenizer.decode(tokens) == text


def altered(tokenizer, **parts):
    return json.dumps({**json.loads(tokenizer.content), **parts})


def test_vocabularies_that_lose_text_are_refused(tokenizer):
    content = json.loads(tokenizer.content)
    some = {token: number for token, number in content["model"]["vocab"].items() if number < 300}
    for parts in (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"decoder": None},
        {"model": {**content["model"], "vocab": {**some, "far": 5000}, "merges": []}},
    ):
        with pytest.raises(UserError, match="does not give every text back"):
            Tokenizer(altered(tokenizer, **parts), "mine.json")


def test_a_file_that_cuts_or_fills_up_texts_does_not(tokenizer):
    cutting = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    filling = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}
    filling |= {"pad_type_id": 0, "pad_token": "<|pad|>"}
    same = Tokenizer(altered(tokenizer, truncation=cutting, padding=filling))
    texts = [TEXTS[0], "x"]
    for one, other in zip(same.encode(texts), tokenizer.encode(texts), strict=True):
        assert one.tolist() == other.tolist()


def test_damaged_files_are_one_error(tokenizer, tmp_path):
    whole = tokenizer.content.encode()
    random = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3 == 0:
            del damaged[random.integers(len(whole)) :]
        else:
            damaged[random.integers(len(whole))] = random.integers(256)
        path = tmp_path / "tokenizer.json"
        path.write_bytes(damaged)
        try:
            Tokenizer.load(path)  # a changed merge is a vocabulary too
        except UserError as error:
            assert str(path) in str(error)
