"""A vocabulary of byte-level pairs: any text becomes tokens, and tokens become the same text again."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from mrl_experiments.data.artifact_cache import cached, keyed_folder
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_text

END, MASK, PAD = "<|end|>", "<|mask|>", "<|pad|>"  # between texts, in place of a masked token, behind a text
SPECIAL = (END, MASK, PAD)  # tokens 0, 1 and 2; they never come out of a text
PIECE = 1000  # characters without a blank after which a text is cut for learning
LONG = re.compile(rf"\S{{{PIECE}}}(?=\S)|\s{{{PIECE}}}(?=\s)")
# A text with every byte that UTF-8 has, and what other vocabularies lose.
PROBE = "".join(map(chr, [*range(0x800), *range(0x800, 0xD800, 63), *range(0xE000, 0x110000, 4095)]))
SMALLEST = 256 + len(SPECIAL)  # every byte has a token of its own


class Tokenizer:
    """A byte-level BPE vocabulary (Sennrich et al., 2016) of the `tokenizers` library.

    end, mask, pad: its special tokens, which are those below `special`.

    Raises:
        UserError: For a file that holds another kind of vocabulary.
    """

    end, mask, pad = range(len(SPECIAL))
    special = len(SPECIAL)

    def __init__(self, content: str, origin: str = "this tokenizer") -> None:
        try:
            self._inner = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises nothing narrower
            raise _foreign(f"{origin} is not a tokenizer: {error}") from error
        if [self._inner.token_to_id(token) for token in SPECIAL] != list(range(len(SPECIAL))):
            raise _foreign(f"{origin} does not begin with {', '.join(SPECIAL)}")
        # A file may ask for texts to be cut or filled up.
        self._inner.no_truncation()
        self._inner.no_padding()
        self._inner.encode_special_tokens = True  # a text that spells <|end|> does not end
        self.content = content
        if sorted(self._inner.get_vocab().values()) != list(range(len(self))) or not self._is_exact():
            raise _foreign(f"{origin} does not give every text back as it was")

    def _is_exact(self) -> bool:
        """Return whether the text with every byte becomes tokens of the right lengths, and the same text."""
        (tokens,) = self.encode([PROBE])
        lengths = self.bytes_of_tokens()
        return self.decode(tokens.tolist()) == PROBE and int(lengths[tokens].sum()) == len(PROBE.encode())

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json.

        Raises:
            UserError: If there is none.
        """
        if not path.exists():
            raise UserError(f"{path}: no such tokenizer", expected="a tokenizer.json")
        return cls(read_text(path), str(path))

    def of_size(self, vocabulary: int) -> "Tokenizer":
        """Return this tokenizer.

        Args:
            vocabulary: How many tokens it should have.

        Raises:
            UserError: If it has another number.
        """
        if len(self) != vocabulary:
            raise UserError(
                f"data.vocabulary={vocabulary}, but the tokenizer has {len(self)} tokens",
                expected="a tokenizer of the model's vocabulary",
                remedy=f"data.vocabulary={len(self)}, or data.tokenizer=null",
            )
        return self

    def __len__(self) -> int:
        return self._inner.get_vocab_size()

    @property
    def identity(self) -> str:
        """A short digest of the vocabulary."""
        return hashlib.sha256(self.content.encode()).hexdigest()[:10]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of each text, without any special ones."""
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, dtype=np.int64) for one in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special ones are left out, a torn character becomes U+FFFD."""
        return self._inner.decode(list(tokens), skip_special_tokens=True)

    def bytes_of_tokens(self) -> NDArray[np.int64]:
        """Return (V,): the bytes of UTF-8 text that each token stands for, 0 for special ones."""
        lengths = np.zeros(len(self), dtype=np.int64)
        for token, number in self._inner.get_vocab().items():
            lengths[number] = 0 if token in SPECIAL else len(token)  # each byte is written as one character
        return lengths


def _foreign(problem: str) -> UserError:
    return UserError(
        problem,
        expected="a tokenizer.json with a byte-level vocabulary of this project: a token for each byte",
        remedy="give one of this project, or let one be trained: data.tokenizer=null",
    )


def tokenizer_of_run(data: Any, ours: Tokenizer | None, state: Mapping[str, Any], remedy: str) -> Tokenizer:
    """Return the tokenizer by which a run's data became tokens.

    Args:
        data: A data module with a name and a length T.
        ours: The tokenizer that must be the same, or None.
        state: What the run keeps of its data.
        remedy: Of another tokenizer.

    Raises:
        UserError: If the run's vocabulary is another, or its texts are shorter.
    """
    theirs = Tokenizer(state["tokenizer"]).of_size(data.inputs["vocabulary"])
    if ours is not None and ours.identity != theirs.identity:
        raise UserError(
            f"the tokenizer of {data.name} is not the one that the run was trained with",
            expected=f"{theirs.identity}, not {ours.identity}",
            remedy=remedy,
        )
    if data.length > state["length"]:
        raise UserError(
            f"data.length={data.length} is longer than the texts that the run was trained with",
            expected=f"at most {state['length']} tokens",
        )
    return theirs


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a vocabulary of `vocabulary` tokens from texts.

    Raises:
        UserError: If it is too small for all bytes, or larger than what the texts repeat.
    """
    if vocabulary < SMALLEST:
        expected = f"{SMALLEST} or more: one for each byte and {len(SPECIAL)} others"
        raise UserError(f"data.vocabulary={vocabulary}", expected=expected)
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
    if inner.get_vocab_size() < vocabulary:
        raise UserError(
            f"data.vocabulary={vocabulary}, but the text gives only {inner.get_vocab_size()} tokens",
            remedy=f"data.vocabulary={inner.get_vocab_size()}, or more text",
        )
    return Tokenizer(inner.to_str())


def _pieces(text: str) -> Iterator[str]:
    """Yield a text, cut inside what has no blank for long; learning takes quadratic time in such words."""
    start = 0
    for run in LONG.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    if start < len(text) or not text:
        yield text[start:]


def cached_tokenizer(
    root: Path,
    name: str,
    identity: Mapping[str, Any],
    texts: Callable[[], Iterable[str]],
    vocabulary: int,
) -> Tokenizer:
    """Return the vocabulary of a data set's texts, trained once: <root>/<name>-<key>/tokenizer.json.

    Args:
        identity: JSON values that determine the texts.
        texts: Returns them, where they are needed.
        vocabulary: The number of tokens V.
    """
    known = {"tokenizers": tokenizers.__version__, "vocabulary": vocabulary, "texts": dict(identity)}

    def write(path: Path) -> dict[str, Any]:
        print(f"learning {vocabulary:,} tokens from {name}", flush=True)
        path.write_text(train_tokenizer(texts(), vocabulary).content, encoding="utf-8")
        return {"identity": known}

    return Tokenizer.load(cached(keyed_folder(root, name, known) / "tokenizer.json", write))
