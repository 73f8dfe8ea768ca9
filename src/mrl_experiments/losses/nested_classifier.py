"""What MRL, MRL-E and FF share: a backbone, linear heads on its prefixes, and the weighted sum of losses."""

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.losses.linear_heads import LinearHeads
from mrl_experiments.losses.method import Method, StepOutput
from mrl_experiments.nesting import NestingSpec


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

    def forward(self, x: Tensor, y: Tensor) -> StepOutput:
        """Return the loss of a batch: inputs x (B, ...), labels y (B,) int64."""
        out = self.head(self.embed(x), y, self.weights, self.label_smoothing)
        return StepOutput(out.total, out.losses, out.correct, len(y))

    def heads(self) -> Heads:
        """Return a copy of the classifiers, to be stored beside the embeddings."""
        return self.head.stored()
