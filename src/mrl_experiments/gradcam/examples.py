"""The choice of images for a Grad-CAM figure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method


@dataclass(frozen=True)
class Examples:
    """Some images as the model sees them. images: (B, C, H, W); labels: (B,); index: (B,) in the split."""

    images: Tensor
    labels: Tensor
    index: Tensor

    def at(self, rows: Tensor) -> "Examples":
        """Return some of the images."""
        return Examples(self.images[rows], self.labels[rows], self.index[rows])


def read_examples(data: Any, split: str, enough: int) -> Examples:
    """Return at least the first `enough` images of a split, or all that there are."""
    batches, count = [], 0
    for batch in data.dataloader(split):
        batches.append([part.clone() for part in batch])  # a loader may use its buffers again
        count += len(batch[0])
        if count >= enough:
            break
    return Examples(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def named(examples: Examples, index: Sequence[int], split: str) -> Examples:
    """Return the images with those numbers, in that order.

    Raises:
        UserError: For one beyond the split.
    """
    row = {number: row for row, number in enumerate(examples.index.tolist())}
    if missing := [number for number in index if number not in row]:
        raise UserError(
            f"--images {missing[0]}: {split} has no such image", expected=f"numbers from 0 to {max(row)}"
        )
    return examples.at(torch.tensor([row[number] for number in index]))


@torch.inference_mode()
def select_informative(method: Method, examples: Examples, dims: Sequence[int], count: int) -> Examples:
    """Choose images of different classes that more dims classify better, as those of Figure 9.

    First those that the first dim gets wrong and the last one right, then those on which dims differ, then
    any; each group in the order of the split.
    """
    parts = zip(examples.images.split(128), examples.labels.split(128), strict=True)
    hits = torch.cat([_hits(method, images, labels, dims) for images, labels in parts])  # (N, L)
    rises = ~hits[:, 0] & hits[:, -1]
    differs = hits.any(dim=1) & ~hits.all(dim=1)
    order = sorted(range(len(hits)), key=lambda i: (not rises[i], not differs[i]))
    first_of_class = {int(examples.labels[i]): i for i in reversed(order)}
    fresh = [i for i in order if first_of_class[int(examples.labels[i])] == i]
    again = [i for i in order if first_of_class[int(examples.labels[i])] != i]
    return examples.at(torch.tensor(list(itertools.islice(itertools.chain(fresh, again), count))))


def _hits(method: Method, images: Tensor, labels: Tensor, dims: Sequence[int]) -> Tensor:
    logits = method.logits(method.embed(images))
    return torch.stack([logits[dim].argmax(dim=1) == labels for dim in dims], dim=1)
