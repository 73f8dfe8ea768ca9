"""Tokens of a split as one packed, memory-mapped file."""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.artifact_cache import cached, keyed_folder, manifest_path
from mrl_experiments.data.reading import Reading
from mrl_experiments.data.text.text_files import TextFiles
from mrl_experiments.data.text.tokenizer import Tokenizer
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object

BATCH = 64  # documents encoded at once
FORMAT = 2


def token_file(root: Path, source: TextFiles, split: str, tokenizer: Tokenizer) -> Path:
    """Return the file of a split's tokens, written first where it is missing.

    Documents follow each other in their order, each closed by the end token.
    <root>/<name>-<key>/<split>.tokens, where the key follows from the text and the vocabulary.
    """
    identity = {"format": FORMAT, "source": source.identity(), "tokenizer": tokenizer.identity}

    def write(path: Path) -> dict[str, Any]:
        print(f"writing the tokens of {source.name} {split}", flush=True)
        reading, started = Reading(), time.monotonic()
        lengths, kind = tokenizer.bytes_of_tokens(), "<u2" if len(tokenizer) <= 1 << 16 else "<u4"
        tokens = text_bytes = 0
        with path.open("wb") as file:
            for document in _encoded(source.texts(split, reading), tokenizer):
                file.write(document.astype(kind).tobytes())
                tokens, text_bytes = tokens + len(document), text_bytes + int(lengths[document].sum())
        minutes = (time.monotonic() - started) / 60
        print(
            f"{source.name} {split}: {tokens:,} tokens of {reading.read:,} files, {minutes:.1f} min",
            flush=True,
        )
        for line in reading.lines():
            print(f"{source.name} {split}: {line}", flush=True)
        facts = {"tokens": tokens, "text_bytes": text_bytes, "type": kind, "identity": identity}
        described = source.manifest(split)
        unread, facts["digests"] = reading.unread, "".join(reading.digests)
        left = [name for name in described["documents"] if name not in set(unread)]
        reading.add_all(source.reading)
        return {**facts, **described, "documents": left, "skipped": unread, "reading": reading.manifest()}

    return cached(keyed_folder(root, source.name, identity) / f"{split}.tokens", write)


def open_tokens(path: Path, length: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return the tokens (N,) of a file as a read-only memory map.

    Raises:
        UserError: If they do not fill one sequence of `length` and the token after it.
    """
    facts = read_object(manifest_path(path))
    if facts["tokens"] <= length:
        raise UserError(
            f"{path.stem}: the text has {facts['tokens']} tokens, fewer than one sequence of {length} needs",
            expected=f"at least {length + 1} tokens",
            remedy="add text, or choose a smaller data.length",
        )
    return np.memmap(path, dtype=facts["type"], mode="r")


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.int64]]:
    remaining = iter(texts)
    while batch := list(itertools.islice(remaining, BATCH)):
        for tokens in tokenizer.encode(batch):
            yield np.append(tokens, tokenizer.end)
