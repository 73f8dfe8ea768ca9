"""InfoNCE on nested prefixes: each prefix of an image finds its text among all texts, and the reverse."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_single_autograd

from mrl_experiments.errors import UserError
from mrl_experiments.losses.contrastive import COLDEST, WARMEST, Contrastive
from mrl_experiments.losses.gradient_cache import embed_with_gradient_cache
from mrl_experiments.losses.method import Inputs
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import prefix


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
        temperature: Initial value for all dims.
        cache_chunk: Samples embedded at a time; each forward pass is repeated for the gradient, which saves
            memory. None embeds a batch at once.
        nested: False is the baseline FF of pairs, a separate model for each dim.
        options: dim, dims, weights, weights_rise and label_smoothing; see `Contrastive`.

    Raises:
        UserError: For values that make no sense, NaN among them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        temperature: float,
        cache_chunk: int | None,
        nested: bool = True,
        **options: Any,
    ) -> None:
        option = "infonce" if nested else "infonce_ff"
        if not COLDEST <= temperature <= WARMEST:  # also refuses NaN
            raise UserError(
                f"loss.temperature={temperature}",
                expected=f"a number from {COLDEST} to {WARMEST} (CLIP: 0.07)",
            )
        options |= {"option": option, "separate": "infonce_ff", "nested": nested}
        super().__init__(backbone, temperature=temperature, **options)
        self.cache_chunk = cache_chunk

    def compare(self, x: Inputs, y: Tensor, *, everywhere: bool) -> tuple[Tensor, Tensor]:
        """Return losses (L, B), and hits (L, 2) in the first 1 and 5, both the mean of the two directions.

        Args:
            x: Images and texts of B pairs.
            y: (B,) labels.
            everywhere: The candidates are the pairs of all processes, else those of this one.
        """
        sides = [embed_with_gradient_cache(self.backbone, side, self.cache_chunk) for side in _pair(x)]
        queries = [z.to(torch.promote_types(z.dtype, torch.float32)) for z in sides]
        candidates, labels, target = queries, y, torch.arange(len(y), device=y.device)
        if everywhere and dist.is_available() and dist.is_initialized():
            candidates, labels = [*map(_of_all_processes, queries)], _of_all_processes(y)
            target = target + dist.get_rank() * len(y)
        same = (y[:, None] == labels).scatter_(1, target[:, None], False)
        losses, hits = [], []
        with torch.autocast(y.device.type, enabled=False):  # half-precision cosines would tie
            for dim, scale in zip(self.spec.dims, self.scales(), strict=True):
                image, text = (F.normalize(prefix(z, dim), dim=1) for z in queries)
                images, texts = (F.normalize(prefix(z, dim), dim=1) for z in candidates)
                logits = [
                    (scale * cosines).masked_fill(same, -torch.inf)
                    for cosines in (image @ texts.T, text @ images.T)
                ]
                both = [F.cross_entropy(direction, target, reduction="none") for direction in logits]
                losses.append(torch.stack(both).mean(dim=0))
                hits.append(nested_hits(dict(enumerate(logits)), target).float().mean(dim=0))
        return torch.stack(losses), torch.stack(hits)


def _pair(x: Inputs) -> tuple[Tensor, Tensor]:
    if isinstance(x, Tensor) or len(x) != 2:
        raise UserError(
            "this data does not come in pairs",
            expected="pairs of an image and a text",
            remedy="data=kanji_captions or image_text_folder, or another loss: loss=mrl",
        )
    images, texts = x
    return images, texts


def _of_all_processes(x: Tensor) -> Tensor:
    """Return the x (B, ...) of all W processes, (W B, ...) by rank; gradients find their way back."""
    world = dist.group.WORLD
    assert world is not None
    return all_gather_single_autograd(x.contiguous(), 0, world)
