"""What losses share that compare the samples of a batch with each other, and have no classifier."""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Inputs, Method, StepOutput, width_of
from mrl_experiments.nesting import Dims, NestingSpec, Weights, one_or_many

COLDEST, WARMEST = 0.01, 1.0  # temperatures stay between: CLIP's bounds (Radford et al., 2021, Section 2.5)


class Contrastive(Method):
    """A method whose logits are similarities over a temperature, which each dim learns.

    Args:
        backbone: Its attribute `width` is D.
        option: What the user chose as loss=.
        separate: The option that trains one dim.
        nested: Whether there are several dims; False takes `dim` in place of `dims`.
        dim: Where `nested` is false, the dim of the representation; None is D.
        dims: The nested dims, or a function of D that gives them; None is D halved down to 8.
        weights: c_m of each dim; None is 1.
        weights_rise: Share of training over which few dims get their weight; see `Method`.
        label_smoothing: Must be 0.
        temperature: Initial value for all dims.

    Raises:
        UserError: For values that make no sense.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        option: str,
        separate: str,
        temperature: float,
        nested: bool = True,
        dim: int | None = None,
        dims: Dims | None = None,
        weights: Weights | None = None,
        weights_rise: float = 0.0,
        label_smoothing: float = 0,
    ) -> None:
        width = width_of(backbone)
        dims = one_or_many(width, dim, dims, nested=nested, option=option, separate=separate)
        super().__init__(backbone, NestingSpec.resolve(width, dims, weights), weights_rise)
        if label_smoothing != 0:
            raise UserError(
                f"loss.label_smoothing={label_smoothing} has no meaning without classes",
                expected="loss.label_smoothing=0",
            )
        self.log_scale = nn.Parameter(torch.full((len(self.spec),), -math.log(temperature)))

    def scales(self) -> Tensor:
        """Return (L,): one over the temperature of each dim, within bounds."""
        with torch.no_grad():  # a bound inside the graph would stop a temperature that touches it
            self.log_scale.clamp_(-math.log(WARMEST), -math.log(COLDEST))
        return self.log_scale.exp()

    @abstractmethod
    def compare(self, x: Inputs, y: Tensor, *, everywhere: bool) -> tuple[Tensor, Tensor]:
        """Return the losses (L, N) of N comparisons, and how many are hits among the first 1 and 5 (L, 2).

        Args:
            x: Inputs of B samples, or of B pairs.
            y: Which of them are alike.
            everywhere: The candidates are those of all processes, where the method can, else of this one.
        """

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of a batch, whose labels y say which samples are alike."""
        losses, hits = self.compare(x, y, everywhere=True)
        means = losses.mean(dim=1)
        return StepOutput((self.weights * means).sum(), means.detach(), hits[:, 0], losses.shape[1])

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, 4): sums of loss, top-1 and top-5 hits over the comparisons of a batch, their number.

        The candidates are those of this batch, so values depend on how many there are.
        """
        losses, hits = self.compare(x, y, everywhere=False)
        sums = losses.sum(dim=1)
        return torch.column_stack([sums, hits, torch.full_like(sums, losses.shape[1])])

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Refuse: there are no classes."""
        raise UserError(
            "a model that learns from similarities has no classifier",
            remedy="evaluation=zero_shot classifies images by texts; vectors need data.labels= with loss=mrl",
        )

    def heads(self) -> None:
        """Return no classifiers."""
        return None
