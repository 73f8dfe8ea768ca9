"""The LightningDataModule of text: files, a vocabulary, and the loaders of packed sequences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.data.artifact_cache import cache_folder, manifest_path
from mrl_experiments.data.data_module import DataModule
from mrl_experiments.data.file_table import pack
from mrl_experiments.data.loaders.loaders import EvalLoader, TrainLoader, at_once, train_loader
from mrl_experiments.data.text.sequences import Ids, MaskedTokens, NextTokens, Sequences
from mrl_experiments.data.text.text_files import TextFiles
from mrl_experiments.data.text.token_file import open_tokens, token_file
from mrl_experiments.data.text.tokenizer import Tokenizer, cached_tokenizer, tokenizer_of_run
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object
from mrl_experiments.losses.method import IGNORED

EVALUATION_SEED = 0  # masks the same tokens for every run
CONTEXT = 24  # tokens that are shown before one


class TextData(DataModule):
    """Text in batches (tokens (B, T), labels (B, T), index (B,)).

    Args:
        name: How runs and tables call the data set.
        source: Text in files; it may refer to `root`.
        tokenizer: A tokenizer.json; None trains one on the train split.
        vocabulary: Its number of tokens V.
        length: The tokens T of a sequence.
        masked: The share of tokens to be predicted from both sides; None: each next token is to be predicted.
        eval_tokens: Validation and embeddings take at most so many tokens of a split, in sequences spread
            evenly over it; None: all.
        batch_size: Sequences per batch of one process.
        cache: The folder of prepared files.
    """

    def __init__(
        self,
        *,
        name: str,
        source: TextFiles,
        root: str | None,
        tokenizer: str | None,
        vocabulary: int,
        length: int,
        masked: float | None,
        eval_tokens: int | None,
        batch_size: int,
        cache: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.name, self.source, self.splits = name, source, source.splits
        self.length, self.masked, self.batch_size, self.seed = length, masked, batch_size, seed
        self.eval_tokens, self.num_classes, self.cache = eval_tokens, vocabulary, cache_folder(cache)
        _check(length, eval_tokens)
        self._tokenizer = (
            None if tokenizer is None else Tokenizer.load(Path(tokenizer).expanduser()).of_size(vocabulary)
        )
        self._opened: dict[str, Any] = {}
        self._digests: dict[str, str] = {}  # of the files of splits that are opened
        self._state: dict[str, Any] | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary: the one given, else learned from the train split, once for all runs."""
        if self._tokenizer is None:
            self._tokenizer = cached_tokenizer(
                self.cache,
                self.source.name,
                self.source.identity(),
                lambda: self.source.texts("train"),
                self.num_classes,
            )
        return self._tokenizer

    @property
    def inputs(self) -> dict[str, int]:
        """What a backbone must know of the text. causal: 1 where it may not look ahead."""
        return {"vocabulary": self.num_classes, "length": self.length, "causal": int(self.masked is None)}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run keeps of its data: name, files, and how text became sequences."""
        if self._state is None:
            own = {"tokenizer": self.tokenizer.content, "length": self.length, "masked": self.masked}
            self._state = {"name": self.name, "files": pack(self._table() or {}), **own}
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read text as a run does, with its vocabulary.

        Raises:
            UserError: If this data has another vocabulary, longer sequences, or another task; and when
                files of data of the same name have changed, unless `accept_changes`, or crossed to another
                split.
        """
        self._compare_files("texts", state_dict)
        remedy = "data.tokenizer=null takes the run's own"
        theirs = tokenizer_of_run(self, self._tokenizer, state_dict, remedy)
        if (self.masked is None) != (state_dict["masked"] is None):
            raise UserError(
                f"data.masked={self.masked}, but the run was trained with {state_dict['masked']}",
                remedy=f"data.masked={'null' if state_dict['masked'] is None else state_dict['masked']}",
            )
        self._tokenizer = theirs

    def files(self) -> dict[str, list[Path]]:
        """Return the files of each split."""
        return {split: list(paths) for split, paths in self.source.files.items()}

    def _file_digests(self) -> dict[str, str]:
        return self._digests

    def prepare(self, split: str) -> None:
        """Write one split into the cache unless it is there.

        Raises:
            UserError: For an unknown split.
        """
        self._tokens(split)

    def _tokens(self, split: str) -> Any:
        """Return the tokens (N,) of a split; its file is written or checked once per process."""
        self._check_split(split)
        if split not in self._opened:
            path = token_file(self.cache, self.source, split, self.tokenizer)
            self._opened[split] = open_tokens(path, self.length)
            self._digests[split] = read_object(manifest_path(path)).get("digests", "")
        return self._opened[split]

    def sequences(self, split: str, seed: int) -> Sequences:
        """Return the sequences of a split; `seed` chooses what is masked in them."""
        if self.masked is None:
            return NextTokens(self._tokens(split), self.length)
        return MaskedTokens(self._tokens(split), self.length, self.masked, self.tokenizer, seed)

    def train_dataloader(self) -> TrainLoader:
        """Return the training loader."""
        sequences = self.sequences("train", self.seed)
        return train_loader(self, len(sequences), at_once(sequences.batch))

    def dataloader(self, split: str) -> EvalLoader:
        """Return the sequences of a split that are evaluated, in order."""
        sequences, shown = self.sequences(split, EVALUATION_SEED), self._evaluated(split)
        run = at_once(lambda index, epoch: sequences.batch(shown[index], epoch))
        labels = (sequences.batch(shown, 0)[1] != IGNORED).sum(axis=1)
        return EvalLoader(len(shown), self.batch_size, run, labels)

    def class_facts(self, split: str) -> dict[str, list[Any]]:
        """Return what is known of the classes, which are tokens: nothing."""
        return {}

    def facts(self, split: str) -> dict[str, Any]:
        """Return what evaluations need to know of a split besides features and labels.

        Returns:
            {bytes: of the text whose tokens are predicted, each once}; of masked tokens, {masked: their
            share}.
        """
        if self.masked is not None:
            return {"masked": self.masked}
        labels = self.sequences(split, EVALUATION_SEED).batch(self._evaluated(split), 0)[1]
        return {"bytes": int(self.tokenizer.bytes_of_tokens()[labels].sum())}

    def show(self, split: str, rows: Sequence[int]) -> list[str]:
        """Return each token that is predicted, in brackets, with the text around it that the model sees."""
        x, y = self.sequences(split, EVALUATION_SEED).batch(self._evaluated(split), 0)
        texts = []
        for sequence, place in np.argwhere(y != IGNORED)[rows]:
            behind = place + (self.masked is None)  # the next token, or one in between
            end = behind if self.masked is None else behind + CONTEXT // 2
            seen = x[sequence, max(0, behind - CONTEXT) : behind], x[sequence, behind + 1 : end]
            before, after = (self.tokenizer.decode(tokens.tolist()) for tokens in seen)
            token = self.tokenizer.decode([int(y[sequence, place])])
            texts.append(f"{before}[{token}]{after}")
        return texts

    def _evaluated(self, split: str) -> Ids:
        count = len(self.sequences(split, EVALUATION_SEED))
        wanted = count if self.eval_tokens is None else min(count, max(1, self.eval_tokens // self.length))
        return np.arange(wanted) * count // wanted


def _check(length: int, eval_tokens: int | None) -> None:
    """Raise UserError for options that no text can satisfy."""
    if length < 2:
        raise UserError(f"data.length={length}", expected="sequences of at least 2 tokens")
    if eval_tokens is not None and eval_tokens < length:
        raise UserError(f"data.eval_tokens={eval_tokens}", expected=f"at least data.length={length}, or null")
