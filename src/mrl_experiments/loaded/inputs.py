"""What users have, images, texts or vectors, as the batches of tensors that a run's model was trained on."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from mrl_experiments.data.images.read_image import read_image
from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.data.loaders.torch_loader import Augmented
from mrl_experiments.data.source import Image
from mrl_experiments.data.text.tokenizer import Tokenizer
from mrl_experiments.errors import UserError

IMAGES = "images: paths, PIL images, uint8 arrays (H, W, C), tensors (C, H, W), or lists or batches of these"
Batch = tuple[list[int], Tensor]  # which of the inputs, and what the model reads of them


class Inputs(ABC):
    """How one kind of input becomes what a model reads."""

    @abstractmethod
    def listed(self, given: Any) -> tuple[list[Any], bool]:
        """Return the inputs as a list, and whether one was given that is no list."""

    @abstractmethod
    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return what the model reads of some inputs, as one batch (B, ...)."""

    def batches(self, items: Sequence[Any], batch_size: int) -> Iterator[Batch]:
        """Yield all inputs in batches, in their order; any of them may share one."""
        for start in range(0, len(items), batch_size):
            rows = range(start, min(start + batch_size, len(items)))
            yield [*rows], self.prepare([items[row] for row in rows])


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Images, cut, resized and normalized as those that the run was validated on.

    A tensor of floating-point numbers is one of prepared images, as `prepare` returns it.

    Attributes:
        channels: C.
        size: The side in pixels that the model sees.
        augment: With the mean and deviation, and the share of the shorter side that is cut out.
    """

    channels: int
    size: int
    augment: Augment

    def listed(self, given: Any) -> tuple[list[Any], bool]:
        """Return the images as a list, and whether one was given that is no list."""
        if isinstance(given, str | Path | Pillow.Image):
            return [given], True
        if isinstance(given, np.ndarray | Tensor):
            is_one = given.ndim == 2 or (given.ndim == 3 and not self._is_grey_batch(given))
            return ([given], True) if is_one else (list(given), False)
        if isinstance(given, Iterable):
            return list(given), False
        raise _refused(given, IMAGES)

    def _is_grey_batch(self, given: Any) -> bool:
        """Return whether an array of three axes is (N, H, W), not one image."""
        channels_at = 2 if isinstance(given, np.ndarray) else 0
        return self.channels == 1 and given.shape[channels_at] not in (1, 3)

    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return images as the model reads them, (B, C, size, size) float32."""
        if all(isinstance(item, Tensor) and item.is_floating_point() for item in items):
            return self._as_prepared(torch.stack(list(items)))
        pixels = [(self._pixels(item), 0) for item in items]
        one_by_one = Augmented(pixels, self.channels, self.augment, self.size, None)
        images = [one_by_one[row][0] for row in range(len(pixels))]
        return torch.stack(images).permute(0, 3, 1, 2).contiguous()

    def _as_prepared(self, images: Tensor) -> Tensor:
        expected = (self.channels, self.size, self.size)
        if images.shape[1:] != expected:
            raise UserError(
                f"a tensor of floating-point images of shape {tuple(images.shape[1:])}",
                expected=f"prepared ones of {expected}, as preprocess(images) returns them",
                remedy="give pixels of any size as uint8",
            )
        return images.float()

    def _pixels(self, item: Any) -> Image:
        """Return the pixels (H, W, channels) uint8 of one image."""
        if isinstance(item, str | Path):
            return read_image(Path(item).expanduser(), self.channels)
        if isinstance(item, Tensor):
            item = item.movedim(0, -1) if item.ndim == 3 else item
            item = item.cpu().numpy()
        if isinstance(item, np.ndarray):
            if item.dtype != np.uint8 or item.ndim not in (2, 3):
                raise _refused(item, "pixels as uint8, (H, W) or (H, W, C); or a tensor of prepared images")
            if item.ndim == 3 and item.shape[2] == self.channels:
                return np.ascontiguousarray(item)
            item = Pillow.fromarray(item.squeeze(-1) if item.shape[2:] == (1,) else item)
        if not isinstance(item, Pillow.Image):
            raise _refused(item, IMAGES)
        return read_image(item, self.channels)


@dataclass(frozen=True)
class TextInputs(Inputs):
    """Texts, cut to `length` tokens and filled up with `pad` to the longest of a batch.

    Attributes:
        tokenizer: The run's.
        length: T, the tokens of the longest text.
    """

    tokenizer: Tokenizer
    length: int

    def listed(self, given: Any) -> tuple[list[Any], bool]:
        """Return the texts as a list, and whether one was given that is no list."""
        if isinstance(given, str):
            return [given], True
        texts = list(given) if isinstance(given, Iterable) else [given]
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise _refused(odd[0], "texts, each a str")
        return texts, False

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of each text, (at most T,)."""
        return [one[: self.length] for one in self.tokenizer.encode(texts)]

    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return tokens (B, T') int64."""
        texts = self.tokens(items)
        tokens = torch.full((len(texts), max(1, *map(len, texts))), self.tokenizer.pad)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.from_numpy(text)
        return tokens


@dataclass(frozen=True)
class SequenceInputs(TextInputs):
    """Texts of a language model, which knows no filling up: texts of equally many tokens share a batch.

    Attributes:
        causal: Of a long text the last tokens are read, else the first.
    """

    causal: bool

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of each text, (from 1 to T,); <|mask|> is the masked token."""
        found = [self._tokens(text) for text in texts]
        if empty := [text for text, tokens in zip(texts, found, strict=True) if not len(tokens)]:
            raise UserError(f"the text {empty[0]!r} has no token", expected="texts that are not empty")
        return found

    def _tokens(self, text: str) -> NDArray[np.int64]:
        parts = self.tokenizer.encode([text] if self.causal else text.split(MASK))
        masked = [part for one in parts for part in (np.array([self.tokenizer.mask]), one)][1:]
        tokens = np.concatenate(masked)
        return tokens[-self.length :] if self.causal else tokens[: self.length]

    def batches(self, items: Sequence[Any], batch_size: int) -> Iterator[Batch]:
        """Yield all texts in batches, by their numbers of tokens."""
        tokens = self.tokens(items)
        order = sorted(range(len(items)), key=lambda row: len(tokens[row]))
        for _, group in groupby(order, key=lambda row: len(tokens[row])):
            rows = list(group)
            for start in range(0, len(rows), batch_size):
                some = rows[start : start + batch_size]
                yield some, torch.from_numpy(np.stack([tokens[row] for row in some]))


MASK = "<|mask|>"


@dataclass(frozen=True)
class VectorInputs(Inputs):
    """Vectors of another model.

    Attributes:
        width: D.
    """

    width: int

    def listed(self, given: Any) -> tuple[list[Any], bool]:
        """Return the vectors as a list, and whether one was given that is no list."""
        rows = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
        if rows.dtype.kind not in "fiu" or rows.ndim not in (1, 2) or rows.shape[-1] != self.width:
            raise UserError(
                f"inputs of shape {rows.shape}, {rows.dtype}", expected=f"vectors (N, {self.width})"
            )
        return list(np.atleast_2d(rows)), rows.ndim == 1

    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return vectors (B, D) float32."""
        return torch.from_numpy(np.stack(items).astype(np.float32))


@dataclass(frozen=True)
class ImageOrTextInputs(Inputs):
    """What a dual encoder reads: a str is a text; a `Path` and all else are images.

    Attributes:
        images: Of the one tower.
        texts: Of the other.
    """

    images: ImageInputs
    texts: TextInputs

    def listed(self, given: Any) -> tuple[list[Any], bool]:
        """Return the inputs as a list, and whether one was given that is no list."""
        if isinstance(given, str):
            return self.texts.listed(given)
        if not isinstance(given, np.ndarray | Tensor | Path | Pillow.Image) and isinstance(given, Iterable):
            given = list(given)
            if given and isinstance(given[0], str):
                return self.texts.listed(given)
        return self.images.listed(given)

    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return images (B, C, size, size) or tokens (B, T')."""
        return (self.texts if items and isinstance(items[0], str) else self.images).prepare(items)


def _refused(given: Any, expected: str) -> UserError:
    kind = type(given).__name__
    shape = f" of shape {tuple(given.shape)}, {given.dtype}" if isinstance(given, np.ndarray | Tensor) else ""
    return UserError(f"an input that is a {kind}{shape}", expected=expected)
