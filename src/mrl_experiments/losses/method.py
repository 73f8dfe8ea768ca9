"""The interface of a training method: embeddings, logits at each nested dim, and the loss."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.nesting import NestingSpec

IGNORED = -100  # a label that does not count
Inputs: TypeAlias = Tensor | tuple[Tensor, ...]  # images (B, C, H, W), tokens (B, T), or several of them


@dataclass(frozen=True)
class StepOutput:
    """One forward pass of a method on a batch, for L nested dims.

    Attributes:
        loss: (), the weighted sum over dims (Eq. 1), differentiable.
        losses: (L,), the loss of each dim, detached, to the target that the method gives it.
        correct: (L,), number of labels whose top-1 prediction is right, detached float32.
        count: Number of labels that count.
    """

    loss: Tensor
    losses: Tensor
    correct: Tensor
    count: int | Tensor


class Method(nn.Module):
    """A backbone with nested heads. It owns the backbone, because some methods rewire it.

    Attributes:
        backbone: Maps inputs to (B, D) features and has an attribute `width` = D.
        spec: The nested dims and their weights.
        weights: c_m of each dim (L,), on the method's device; in training, as `set_progress` has set them.
        metrics: What `validate` sums up; "loss" and "top1" are among them.
        soft_targets: True if `forward` takes probabilities (B, C) for labels.
        static_shapes: True if layers meet the same shapes at every step; a GPU's kernels are tuned then.
    """

    spec: NestingSpec
    weights: Tensor
    _risen: Tensor
    _shares: Tensor
    metrics: tuple[str, ...] = ("loss", "top1", "top5")
    soft_targets: bool = False
    static_shapes: bool = True

    def __init__(self, backbone: nn.Module, spec: NestingSpec, weights_rise: float = 0.0) -> None:
        """Own a backbone.

        Args:
            backbone: Its attribute `width` is D.
            spec: The nested dims and their weights.
            weights_rise: Share of training in which the weight of m dims rises from (m / M)^4 c_m to c_m,
                where M is the largest nested dim; 0: it is c_m throughout (Eq. 1).

        Raises:
            UserError: For a share below 0 or above 1.
        """
        super().__init__()
        if not 0 <= weights_rise <= 1:  # also refuses NaN
            raise UserError(f"loss.weights_rise={weights_rise}", expected="a share of training from 0 to 1")
        self.backbone = backbone
        self.spec = spec
        self.weights_rise = weights_rise
        self.register_buffer("weights", torch.tensor(spec.weights), persistent=False)
        # What weights rise to and from lies on the device too, so that no step waits for a copy.
        self.register_buffer("_risen", self.weights.clone(), persistent=False)
        shares = torch.tensor([dim / spec.dims[-1] for dim in spec.dims])
        self.register_buffer("_shares", shares, persistent=False)

    def set_progress(self, progress: float) -> None:
        """Set the weights of a step, before which `progress` of the training is done (0 to 1).

        `NestedModule` calls it before each step; a loop of your own has to, too, or weights are c_m. Few dims
        come last, because their losses fall late and would keep the backbone from what the largest dim
        teaches it in the first steps (docs/recipe.md).
        """
        if self.weights_rise:
            power = 4 * max(0.0, 1 - progress / self.weights_rise)
            self.weights = self._risen * self._shares**power  # a new tensor: a graph may hold the one before

    def embed(self, x: Inputs) -> Tensor:
        """Return the full-width representation, (B, ...) -> (B, D)."""
        return self.backbone(x)

    @abstractmethod
    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Return {dim: (B, C)} for features z (B, D)."""

    @abstractmethod
    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of a batch: inputs x (B, ...), labels y (B, ...) int64."""

    @abstractmethod
    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, len(metrics) + 1): sums of each metric over the labels of a batch, and their number."""

    @abstractmethod
    def heads(self) -> Heads | None:
        """Return a copy of the classifiers, if there are any, to be stored beside the embeddings."""

    def finish(self, batches: Iterable[Inputs]) -> bool:
        """Finish training, given batches of training inputs; return whether anything changed."""
        return False

    def subnetworks(self) -> Mapping[str, "Method"]:
        """Return the networks that are embedded, by name: "" is this one, others are parts of it."""
        return {"": self}


def width_of(backbone: nn.Module) -> int:
    """Return the number of features D of a backbone.

    Raises:
        UserError: If the backbone does not say it.
    """
    width = getattr(backbone, "width", None)
    if not isinstance(width, int):
        raise UserError(
            f"{type(backbone).__name__} does not say how many features it gives",
            expected="an attribute width, the D of its features (B, D)",
            remedy="set it, or wrap the module: mrl_experiments.models.module_backbone.ModuleBackbone",
        )
    return width
