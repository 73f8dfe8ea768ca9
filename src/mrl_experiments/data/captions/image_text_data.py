"""The LightningDataModule of images with texts."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrl_experiments.data.artifact_cache import cache_folder
from mrl_experiments.data.captions.captions import CaptionedSource, Captions, identity_of
from mrl_experiments.data.images.image_data import ImageData
from mrl_experiments.data.loaders.loaders import Batch, BatchReader, EvalLoader, at_once
from mrl_experiments.data.loaders.order import Batches
from mrl_experiments.data.text.tokenizer import Tokenizer, cached_tokenizer, tokenizer_of_run
from mrl_experiments.embeddings import TEXT
from mrl_experiments.errors import UserError


class ImageTextData(ImageData):
    """Images with texts in batches ((images, tokens (B, T)), labels, index), both sides alike in a label.

    To be embedded, each split comes as images (`val`) and as texts (`val_text`), with the same labels.

    Args:
        source: Images whose labels have captions, see data/captions/captions.py.
        tokenizer: A tokenizer.json; None trains one on the captions of the train split.
        vocabulary: Its number of tokens V.
        length: The tokens T of a text; longer ones are cut.
        options: Of ImageData.
    """

    views: tuple[str, ...] = ("none",)  # a mirrored text is no text

    def __init__(
        self,
        *,
        source: CaptionedSource,
        tokenizer: str | None,
        vocabulary: int,
        length: int,
        cache: str,
        **options: Any,
    ) -> None:
        super().__init__(source=source, cache=cache, **options)
        self.captioned, self.vocabulary, self.length = source, vocabulary, length
        self.images = self.splits
        self.splits = (*self.images, *(split + TEXT for split in self.images))
        known = Tokenizer.load(Path(tokenizer).expanduser()) if tokenizer else None
        self.tokenizer = (known or self._trained_tokenizer(cache_folder(cache))).of_size(vocabulary)
        self.captions = Captions(source.captions, self.tokenizer, length)
        if self.captions.cut:
            total = len(self.captions.tokens)
            print(f"{self.captions.cut} of {total} captions are longer than data.length={length} and are cut")

    def _trained_tokenizer(self, cache: Path) -> Tokenizer:
        train = [self.captioned.captions[label] for label in self.captioned.labels("train")]
        texts = [text for one in train for text in one]
        return cached_tokenizer(
            cache, f"{self.name}-captions", identity_of(train), lambda: texts, self.vocabulary
        )

    @property
    def inputs(self) -> dict[str, int]:
        """What the two towers must know."""
        text = {"vocabulary": self.vocabulary, "length": self.length, "pad": self.tokenizer.pad}
        return {**super().inputs, **text}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run keeps of its data: which files, which texts, and how text became tokens."""
        own = {"texts": self._texts(), "tokenizer": self.tokenizer.content, "length": self.length}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that files and texts are those of a run, and that text becomes tokens that it can read.

        With `accept_changes`, other texts are printed, and the run's tokenizer is used.

        Raises:
            UserError: If they are others, or texts are longer than the run's.
        """
        super().load_state_dict({**state_dict, "classes": None})  # labels here tell pairs, not classes
        ours = None if self.accept_changes else self.tokenizer
        remedy = "the captions or data.tokenizer changed since: restore them, or train a new run"
        theirs = tokenizer_of_run(self, ours, state_dict, remedy)
        if theirs.identity != self.tokenizer.identity:
            self.tokenizer = theirs
            self.captions = Captions(self.captioned.captions, theirs, self.length)
        if "texts" in state_dict and state_dict["name"] == self.name:
            self._compare_texts(state_dict["texts"])

    def files_identity(self) -> str | None:
        """Return a digest of the images' files and of their captions; None where images are not files."""
        if (files := super().files_identity()) is None:
            return None
        digest = hashlib.blake2b(files.encode(), digest_size=16)
        for split, hashes in self._texts().items():
            digest.update(split.encode() + hashes.numpy().tobytes())
        return digest.hexdigest()

    def _texts(self) -> dict[str, Tensor]:
        """Return, for each split, a hash of each label's name and captions (L,) int64."""
        names = getattr(self.captioned, "names", range(self.num_classes))

        def of(label: int) -> int:
            content = "\0".join((str(names[label]), *self.captioned.captions[label]))
            digest = hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=8).digest()
            return int.from_bytes(digest, "big", signed=True)

        labels = {split: self.captioned.labels(split) for split in self.images}
        return {split: torch.tensor([of(label) for label in own]) for split, own in labels.items()}

    def _compare_texts(self, before: dict[str, Tensor]) -> None:
        """Raise UserError, or say with `accept_changes`, where captions are not those of a run."""
        now = self._texts()
        found = []
        for split in sorted(before.keys() & now.keys()):
            theirs, ours = set(before[split].tolist()), set(now[split].tolist())
            if theirs != ours:
                found.append(f"{len(ours - theirs)} of {split} are new or changed, {len(theirs - ours)} gone")
        if not found:
            return
        problem = (
            f"the captions of {self.name} are not those that the run was trained with: {'; '.join(found)}"
        )
        if not self.accept_changes:
            raise UserError(
                problem,
                expected="the same captions of the same images",
                remedy="restore them, or keep other data apart by a name of its own: data.name=<name>; or "
                "embed.py accept_changes=true embeds what is there now",
            )
        print(problem, flush=True)

    def class_facts(self, split: str) -> dict[str, list[Any]]:
        """Return what is known of the classes; of texts, what is known of their images' classes."""
        return super().class_facts(split.removesuffix(TEXT))

    def show(self, split: str, rows: Sequence[int]) -> list[Any]:
        """Return images, or of a split of texts its texts."""
        if split in self.images or split not in self.splits:
            return super().show(split, rows)
        labels = self.captioned.labels(split.removesuffix(TEXT))
        texts = [text for label in labels for text in self.captioned.captions[label]]
        return [texts[row] for row in rows]

    def prepare(self, split: str) -> None:
        """Write the images of a split into the cache unless they are there."""
        super().prepare(split.removesuffix(TEXT))

    def dataloader(self, split: str) -> EvalLoader:
        """Return all images or all texts of a split in order."""
        if split in self.images or split not in self.splits:
            return super().dataloader(split)
        rows, labels = self.captions.of(self.captioned.labels(split.removesuffix(TEXT)))
        run = at_once(lambda index, _: (self.captions.tokens[rows[index]], labels[index]))
        return EvalLoader(len(rows), self.batch_size, run)

    def val_dataloader(self) -> EvalLoader:
        """Return the validation loader: each image with its first text."""
        run, count = super()._reader("val", training=False)
        return EvalLoader(count, self.batch_size, self._paired(run, training=False))

    def _reader(self, split: str, *, training: bool) -> tuple[BatchReader, int]:
        run, count = super()._reader(split, training=training)
        return (self._paired(run, training=True) if training else run), count

    def _paired(self, run: BatchReader, *, training: bool) -> BatchReader:
        def pairs(order: Batches, epoch: int) -> Iterator[Batch]:
            for images, labels, index in run(order, epoch):
                if training:
                    texts = self.captions.drawn(labels, index, self.seed, epoch)
                else:
                    texts = self.captions.first(labels)
                yield (images, texts), labels, index

        return pairs
