"""The linear classifiers of nested representations: one a size (MRL, FF), or one for all sizes (MRL-E)."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.heads import Heads
from mrl_experiments.losses.method import as_float32
from mrl_experiments.losses.nested_cross_entropy import NestedLosses, nested_cross_entropy
from mrl_experiments.nesting import prefix


class LinearHeads(nn.Module):
    """Classifiers of features (..., D) into C classes at each size in `dims`.

    They start at zero. With torch's random start, whose scale is 1/sqrt(m), the first thing that a backbone
    learns from a classifier of 8 features is to keep them small, and behind a ReLU they may never recover.
    Only the input embeddings of a text model, where they are the classifier too, start as they are.
    """

    dims: tuple[int, ...]

    @abstractmethod
    def parameters_at(self, dim: int) -> tuple[Tensor, Tensor | None]:
        """Return the classifier of one size: weight (C, dim), bias (C,) if it has one."""

    @abstractmethod
    def forward(
        self, z: Tensor, y: Tensor, loss_weights: Tensor, label_smoothing: float = 0.0
    ) -> NestedLosses:
        """Return the losses of features z (..., D) with labels y (...), weighted by `loss_weights` (L,)."""

    @abstractmethod
    def stored(self) -> Heads:
        """Return a copy to be stored beside embeddings."""

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Return {dim: (..., C)}."""
        return {dim: F.linear(prefix(z, dim), *self.parameters_at(dim)) for dim in self.dims}


class SeparateHeads(LinearHeads):
    """A `Linear(m, C)` of its own for every size m."""

    def __init__(self, dims: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.linear = nn.ModuleDict({str(dim): _linear(dim, num_classes) for dim in dims})

    def parameters_at(self, dim: int) -> tuple[Tensor, Tensor]:
        """Return the classifier of one size: weight (C, dim), bias (C,)."""
        linear = self.linear[str(dim)]
        assert isinstance(linear, nn.Linear)
        return linear.weight, linear.bias

    def forward(
        self, z: Tensor, y: Tensor, loss_weights: Tensor, label_smoothing: float = 0.0
    ) -> NestedLosses:
        """Return the losses of features z (..., D) with labels y (...), weighted by `loss_weights` (L,)."""
        weights, biases = zip(*map(self.parameters_at, self.dims), strict=True)
        return nested_cross_entropy(
            z, weights, biases, y, self.dims, loss_weights=loss_weights, label_smoothing=label_smoothing
        )

    def stored(self) -> Heads:
        """Return a copy to be stored beside embeddings."""
        own = {dim: [as_float32(p).numpy() for p in self.parameters_at(dim)] for dim in self.dims}
        return Heads({d: w for d, (w, _) in own.items()}, {d: b for d, (_, b) in own.items()}, tied=False)


class TiedHead(LinearHeads):
    """One `Linear(D, C)`, of which size m reads the first m columns; all sizes add the same bias.

    shared: the input embeddings (C, D) of the backbone to be used as its weight, then without a bias.
    """

    def __init__(self, dims: Sequence[int], num_classes: int, shared: nn.Parameter | None = None) -> None:
        super().__init__()
        self.dims = tuple(dims)
        if shared is None:
            self.linear = _linear(self.dims[-1], num_classes)
        else:
            assert len(shared) == num_classes
            self.linear = nn.Linear(shared.shape[1], num_classes, bias=False, device="meta")
            self.linear.weight = shared

    def parameters_at(self, dim: int) -> tuple[Tensor, Tensor | None]:
        """Return the classifier of one size: weight (C, dim), bias (C,) if it has one."""
        return prefix(self.linear.weight, dim), self.linear.bias

    def forward(
        self, z: Tensor, y: Tensor, loss_weights: Tensor, label_smoothing: float = 0.0
    ) -> NestedLosses:
        """Return the losses of features z (..., D) with labels y (...), weighted by `loss_weights` (L,)."""
        weight, bias = self.linear.weight, self.linear.bias
        return nested_cross_entropy(
            z, weight, bias, y, self.dims, loss_weights=loss_weights, label_smoothing=label_smoothing
        )

    def stored(self) -> Heads:
        """Return a copy to be stored beside embeddings."""
        full = self.dims[-1]
        weight, bias = self.parameters_at(full)
        stored = torch.zeros(len(weight)) if bias is None else as_float32(bias)
        return Heads({full: as_float32(weight).numpy()}, {full: stored.numpy()}, tied=True)


def _linear(dim: int, num_classes: int) -> nn.Linear:
    linear = nn.Linear(dim, num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
