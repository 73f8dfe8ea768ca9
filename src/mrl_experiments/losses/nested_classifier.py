"""What MRL, MRL-E and FF share: a backbone, linear heads on its prefixes, and the weighted sum of losses."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.losses.linear_heads import LinearHeads
from mrl_experiments.losses.method import IGNORED, Inputs, Method, StepOutput
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import NestingSpec

BLOCK = 1024  # labels validated at once: the logits of a vocabulary at all sizes are many


class NestedClassifier(Method):
    """A backbone whose prefixes are classified by linear heads (Eq. 1).

    Raises UserError when label_smoothing is not in [0, 1).
    """

    weights: Tensor

    def __init__(
        self, backbone: nn.Module, spec: NestingSpec, heads: LinearHeads, label_smoothing: float
    ) -> None:
        super().__init__(backbone, spec)
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"loss.label_smoothing={label_smoothing}", expected="a number from 0 to below 1 (paper: 0.1)"
            )
        self.head = heads
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", torch.tensor(spec.weights), persistent=False)

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Return {dim: (B, C)} for features z (B, D)."""
        return self.head.logits(z)

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of a batch: inputs x (B, ...), labels y (B, ...) int64."""
        features = self.embed(x)
        z, y = counted(features, y)
        if not len(y):  # chance hid no token of this batch
            none = torch.zeros(len(self.spec), device=z.device)
            return StepOutput(0 * features.sum(), none, none, 0)
        out = self.head(z, y, self.weights, self.label_smoothing)
        return StepOutput(out.total, out.losses, out.correct, len(y))

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, 4): sums of cross-entropy, top-1 and top-5 hits over a batch, and its labels."""
        z, y = counted(self.embed(x), y)
        with torch.autocast(z.device.type, enabled=False):  # half-precision logits would tie
            blocks = zip(z.split(BLOCK), y.split(BLOCK), strict=True)
            return torch.stack([batch_sums(self.logits(part.float()), own) for part, own in blocks]).sum(0)

    def heads(self) -> Heads:
        """Return a copy of the classifiers, to be stored beside the embeddings."""
        return self.head.stored()


def counted(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels (N,) of the labels that count, from those of images or of tokens.

    z: (B, D) or (B, T, D). y: (B,), all of which count, or (B, T) with some IGNORED.
    """
    if y.ndim == 1:
        return z, y
    kept = y != IGNORED
    return z[kept], y[kept]


def batch_sums(logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
    """Return (L, 4) sums over a batch: cross-entropy, top-1 hits, top-5 hits, samples."""
    losses = [F.cross_entropy(level, labels, reduction="sum") for level in logits.values()]
    hits = nested_hits(logits, labels).to(losses[0].dtype)
    counts = torch.full((len(losses), 1), float(len(labels)), device=labels.device)
    return torch.cat([torch.stack(losses)[:, None], hits, counts], dim=1)
