"""InfoNCE on nested prefixes: each prefix of an image finds its text among all texts, and the reverse."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_single_autograd

from mrl_experiments.errors import UserError
from mrl_experiments.losses.contrastive import COLDEST, WARMEST, Contrastive, sums
from mrl_experiments.losses.gradient_cache import embed_with_gradient_cache
from mrl_experiments.losses.method import Inputs, StepOutput, width_of
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import Dims, NestingSpec, one_or_many, prefix

Sides: TypeAlias = tuple[Tensor, ...]  # of images and of texts


class InfoNCE(Contrastive):
    """Nested contrastive learning of pairs (ALIGN-MRL: Kusupati et al., 2022, Section 4.1).

    The loss is the sum over dims m of c_m times the mean of both directions' cross-entropy. The logits are
    the cosines of the first m features with B candidates, divided by a temperature; the target is the
    sample's partner. Each prefix is normalized by itself. Each dim learns its own temperature, so a dim alone
    has the same loss as inside a nesting.

    Negatives are the pairs of all processes. Pairs with equal labels show the same thing and are no negatives
    of each other.

    Args:
        backbone: Of pairs; its attribute `width` is D.
        num_classes: Not used; there is no classifier.
        name: How rows and tables call the method.
        dim: Where `nested` is false, the dim of the representation; None is D.
        dims: The nested dims, or a function of D that gives them; None is D halved down to 8.
        weights: c_m of each dim; None is 1.
        label_smoothing: Must be 0.
        temperature: Initial value for all dims.
        cache_chunk: Samples embedded at a time; each forward pass is repeated for the gradient, which saves
            memory. None embeds a batch at once.
        nested: False is the baseline FF of pairs, a separate model for each dim.

    Raises:
        UserError: For values that make no sense, NaN among them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        dim: int | None,
        dims: Dims | None,
        weights: Sequence[float] | None,
        label_smoothing: float,
        temperature: float,
        cache_chunk: int | None,
        nested: bool = True,
    ) -> None:
        width, option = width_of(backbone), "infonce" if nested else "infonce_ff"
        dims = one_or_many(width, dim, dims, nested=nested, option=option, separate="infonce_ff")
        spec = NestingSpec.resolve(width, dims, weights)
        _check(label_smoothing, temperature)
        super().__init__(backbone, spec, temperature)
        self.cache_chunk = cache_chunk

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of pairs x = (images, tokens) with labels y (B,)."""
        images, texts = (self._embedded(side) for side in _pair(x))
        losses, hits = self._compare(images, texts, y, everywhere=True)
        weights = torch.tensor(self.spec.weights, device=losses.device)
        means = losses.mean(dim=1)
        return StepOutput((weights * means).sum(), means.detach(), hits[:, 0], len(y))

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, 4): sums of loss, top-1 and top-5 hits over the pairs of a batch, and their number.

        Only the pairs of this batch are candidates, so values depend on how many there are.
        """
        images, texts = (self.embed(side) for side in _pair(x))
        return sums(*self._compare(images, texts, y, everywhere=False))

    def _embedded(self, x: Tensor) -> Tensor:
        return (
            embed_with_gradient_cache(self.backbone, x, self.cache_chunk)
            if self.cache_chunk
            else self.embed(x)
        )

    def _compare(
        self, images: Tensor, texts: Tensor, y: Tensor, *, everywhere: bool
    ) -> tuple[Tensor, Tensor]:
        """Return losses (L, B), and hits (L, 2) in the first 1 and 5, both the mean of the two directions.

        Args:
            everywhere: The candidates are the pairs of all processes, else those of this one.
        """
        shared = everywhere and dist.is_available() and dist.is_initialized()
        collect, rank = (_of_all_processes, dist.get_rank()) if shared else (_as_it_is, 0)
        queries = tuple(z.to(torch.promote_types(z.dtype, torch.float32)) for z in (images, texts))
        candidates, labels = tuple(map(collect, queries)), collect(y)
        row = torch.arange(len(y), device=y.device)
        target = row + rank * len(y)
        same = y[:, None] == labels
        same[row, target] = False
        losses, hits = [], []
        with torch.autocast(y.device.type, enabled=False):  # half-precision cosines would tie
            for dim, scale in zip(self.spec.dims, self.scales(), strict=True):
                logits = [
                    (scale * cosines).masked_fill(same, -torch.inf)
                    for cosines in _both_ways(queries, candidates, dim)
                ]
                both = [F.cross_entropy(direction, target, reduction="none") for direction in logits]
                losses.append(torch.stack(both).mean(dim=0))
                hits.append(nested_hits(dict(enumerate(logits)), target).float().mean(dim=0))
        return torch.stack(losses), torch.stack(hits)

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Refuse: there are no classes."""
        raise UserError(
            "a contrastive model has no classifier", remedy="evaluation=zero_shot classifies by texts"
        )


def _pair(x: Inputs) -> tuple[Tensor, Tensor]:
    if isinstance(x, Tensor) or len(x) != 2:
        raise UserError(
            "this data does not come in pairs",
            expected="pairs of an image and a text",
            remedy="data=kanji_captions or image_text_folder, or another loss: loss=mrl",
        )
    images, texts = x
    return images, texts


def _both_ways(queries: Sides, candidates: Sides, dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines (B, N) of the first `dim` features: of images to texts, of texts to images."""
    image, text = (F.normalize(prefix(z, dim), dim=1) for z in queries)
    images, texts = (F.normalize(prefix(z, dim), dim=1) for z in candidates)
    return image @ texts.T, text @ images.T


def _of_all_processes(x: Tensor) -> Tensor:
    """Return the x (B, ...) of all W processes, (W B, ...) by rank; gradients find their way back."""
    world = dist.group.WORLD
    assert world is not None
    gathered: Tensor = all_gather_single_autograd(x.contiguous(), 0, world)
    return gathered


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _check(label_smoothing: float, temperature: float) -> None:
    if label_smoothing != 0:
        raise UserError(
            f"loss.label_smoothing={label_smoothing} has no meaning between pairs",
            expected="loss.label_smoothing=0",
        )
    if not COLDEST <= temperature <= WARMEST:  # also refuses NaN
        raise UserError(
            f"loss.temperature={temperature}", expected=f"a number from {COLDEST} to {WARMEST} (CLIP: 0.07)"
        )
