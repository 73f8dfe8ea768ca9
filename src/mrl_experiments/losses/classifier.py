"""MRL, MRL-E and FF: a backbone with linear classifiers of its prefixes (Kusupati et al., 2022, Eq. 1)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.losses.cross_entropy import NestedLosses, nested_cross_entropy
from mrl_experiments.losses.decorrelation import decorrelation
from mrl_experiments.losses.method import IGNORED, Inputs, Method, StepOutput, width_of
from mrl_experiments.names import RECIPES
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import Dims, NestingSpec, Weights, one_or_many, prefix

BLOCK = 1024  # labels validated at once: the logits of a vocabulary at all dims are many
DECORRELATED = 0.0025  # weight of the penalty on features that repeat each other, beside divided losses
DISTILLED = 0.5  # share of what the largest dim predicts in the target of dims in the middle
USUAL = 128  # dims whose classifiers balanced heads leave as they are
# The most that a step moves logits, over C - 1: features of C classes come to lie in so many directions.
STEEPEST = 16
# The powers of m by which a step moves logits, below USUAL dims and above; True: of a tied classifier.
POWERS = {False: (0.0, 0.5), True: (0.4, 0.4)}


class NestedHeads(nn.Module):
    """Linear classifiers of features (..., D) into C classes: one per dim, or a tied one for all.

    They start at zero. With torch's random start, whose scale is 1/sqrt(m), the first thing that a backbone
    learns from a classifier of 8 features is to keep them small, and behind a ReLU they may never recover.
    Only the input embeddings of a text model, where they are the classifier too, start as they are.

    Args:
        dims: The nested dims, ascending.
        num_classes: C.
        tied: Dim m reads the first m columns of one `Linear(D, C)`, and all dims add the same bias (MRL-E).
        shared: Input embeddings (C, D) of the backbone that are the tied weight, then without a bias.
        balanced: Weights are parameters times factors with which a step of SGD moves the logits of m
            features of variance 1 in proportion to the root of m from 128 on, and below as far as at 128.
            Without them it is in proportion to m, and with one rate few dims learn too slowly, or many
            diverge. Those of a tied classifier move as the power 0.4 of m. With few classes, to which many
            features are alike, none moves further than 16 (C - 1). The smallest dim alone teaches
            the features it reads, and dims from the third to the last but one learn half from what the
            largest predicts; with a tied classifier, each column learns from the smallest dim that reads it,
            and no dim from another (`nested_cross_entropy`). Features are kept from repeating each other
            (`decorrelation`). docs/recipe.md has measurements.

    Attributes:
        decorrelation: () The weight of that penalty.
    """

    decorrelation: Tensor
    factors: Tensor
    distillation: Tensor | None

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        tied: bool,
        shared: nn.Parameter | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.dims, self.tied, self.balanced = tuple(dims), tied, balanced and shared is None
        if self.balanced:
            self.register_buffer("factors", _factors(self.dims, tied, POWERS[tied], num_classes))
            shares = [DISTILLED if 2 <= k < len(dims) - 1 else 0.0 for k in range(len(dims))]
            distillation = torch.tensor(shares) if any(shares) else None
            self.register_buffer("distillation", distillation, persistent=False)
            # Stored, so that an unfinished run goes on as it began.
            self.register_buffer("decorrelation", torch.tensor(DECORRELATED))
            self.register_buffer("teach_alone", torch.tensor(len(self.dims) if tied else 1))
        self._own_columns = tied  # the same, where reading it waits for no device
        self.linear: nn.Module
        if shared is not None:
            assert tied and len(shared) == num_classes
            self.linear = nn.Linear(shared.shape[1], num_classes, bias=False, device="meta")
            self.linear.weight = shared
        elif tied:
            self.linear = nn.Linear(self.dims[-1], num_classes)
        else:
            self.linear = nn.ModuleDict({str(dim): nn.Linear(dim, num_classes) for dim in dims})
        for parameter in self.parameters() if shared is None else ():
            nn.init.zeros_(parameter)

    def parameters_at(self, dim: int) -> tuple[Tensor, Tensor | None]:
        """Return the classifier of one dim: weight (C, dim), bias (C,) if it has one."""
        linear = self.linear[str(dim)] if isinstance(self.linear, nn.ModuleDict) else self.linear
        assert isinstance(linear, nn.Linear)
        weight = prefix(linear.weight, dim)
        if self.balanced:
            factor = prefix(self.factors, dim) if self.tied else self.factors[self.dims.index(dim)]
            weight = weight * factor.to(weight.dtype)
        return weight, linear.bias

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Return {dim: (..., C)}, in the dtype of z unless autocast says otherwise."""
        parameters = {dim: self.parameters_at(dim) for dim in self.dims}
        return {
            dim: F.linear(prefix(z, dim), weight.to(z.dtype), None if bias is None else bias.to(z.dtype))
            for dim, (weight, bias) in parameters.items()
        }

    def forward(
        self,
        z: Tensor,
        y: Tensor,
        loss_weights: Tensor,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> NestedLosses:
        """Return the losses of a batch.

        Args:
            z: Features (..., D).
            y: Labels (...), or probabilities (..., C).
            loss_weights: (L,), one per dim.
            label_smoothing: Share of the target that is spread over all classes.
            class_weights: (C,), as in `F.cross_entropy`.
        """
        weights, biases = zip(*map(self.parameters_at, self._own_dims), strict=True)
        own = (weights[0], biases[0]) if self.tied else (weights, biases)
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weight": class_weights}
        options |= {"loss_weights": loss_weights, **self.teaching}
        return nested_cross_entropy(z, *own, y, self.dims, **options)

    @property
    def teaching(self) -> dict[str, Any]:
        """Which loss teaches what, as options of `nested_cross_entropy`; none in the paper's recipe."""
        if not self.balanced:
            return {}
        if self._own_columns:
            return {"teach_alone": len(self.dims)}
        return {"teach_alone": 1, "distillation": self.distillation}

    @property
    def norm(self) -> float:
        """The p of the norm of the weights by which the backbone's gradient is divided (docs/recipe.md)."""
        return 2 if self._own_columns else 4 / 3

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if self.balanced:  # earlier runs stored none of these; in the first, a column learned from all dims
            state_dict.setdefault(f"{prefix}decorrelation", torch.tensor(0.0))
            state_dict.setdefault(f"{prefix}factors", _factors(self.dims, self.tied, (0.5, 0.5), shared=True))
            stored = state_dict.setdefault(f"{prefix}teach_alone", torch.tensor(len(self.dims)))
            self._own_columns = int(stored) == len(self.dims)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def stored(self) -> Heads:
        """Return a copy to be stored beside embeddings."""

        def copy(parameter: Tensor) -> NDArray[np.float32]:
            return parameter.detach().to("cpu", torch.float32, copy=True).numpy()

        weights, biases = {}, {}
        for dim in self._own_dims:
            weight, bias = self.parameters_at(dim)
            weights[dim] = copy(weight)
            biases[dim] = copy(weight.new_zeros(len(weight)) if bias is None else bias)
        return Heads(weights, biases, self.tied)

    @property
    def _own_dims(self) -> tuple[int, ...]:
        """The dims that have a weight of their own."""
        return self.dims[-1:] if self.tied else self.dims


class NestedClassifier(Method):
    """A backbone whose prefixes are classified by linear heads: MRL, MRL-E, or FF with a single dim.

    Args:
        backbone: Maps inputs to features (B, D); its attribute `width` is D.
        num_classes: C.
        name: How messages call the method.
        dim: Where `nested` is false, the dim of the representation; None is D. Others get no loss.
        dims: The nested dims, or a function of D that gives them; None is D halved down to 8.
        weights: c_m of each dim, or {dim: c_m} for some; None is 1.
        weights_rise: Share of training over which few dims get their weight; see `Method`.
        tied: Whether all dims share one classifier (MRL-E); None is whether the backbone has input embeddings
            that serve as it (BERT-MRL, Table 7).
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: Weight of each class in the training's loss, as in `F.cross_entropy`; None is 1.
        nested: Whether there are several dims; False is the baseline FF, a separate model for each dim.
        recipe: "paper", or "balanced": features of image networks have mean 0 and variance 1
            (`TimmBackbone.standardize`) and are kept from repeating each other, classifiers of few dims learn
            faster, few dims alone teach their features, and middle dims learn in part from what the largest
            predicts (`NestedHeads`). It changes nothing for other backbones. docs/recipe.md has
            the measurements.

    Raises:
        UserError: For values that make no sense together, or no sense for a backbone of this width.
    """

    soft_targets = True
    class_weights: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        name: str = "mrl",
        dim: int | None = None,
        dims: Dims | None = None,
        weights: Weights | None = None,
        weights_rise: float = 0.0,
        tied: bool | None = False,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        nested: bool = True,
        recipe: str = "paper",
    ) -> None:
        assert recipe in RECIPES
        width = width_of(backbone)
        dims = one_or_many(width, dim, dims, nested=nested, option=name, separate="ff")
        if num_classes < 1:
            raise UserError(
                f"loss={name} learns from labels, and the data have none",
                expected="labels of at least two classes",
                remedy="name their file, data.labels=, or train without: loss=similarity_distillation",
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"loss.label_smoothing={label_smoothing}", expected="a number from 0 to below 1 (paper: 0.1)"
            )
        super().__init__(backbone, NestingSpec.resolve(width, dims, weights), weights_rise)
        shared = None if tied is False else getattr(backbone, "shared_embedding", None)
        tied = shared is not None if tied is None else tied
        standardize: Any = getattr(backbone, "standardize", None)
        balanced = recipe == "balanced" and standardize is not None and standardize()
        self.head = NestedHeads(self.spec.dims, num_classes, tied=tied, shared=shared, balanced=balanced)
        self.label_smoothing = label_smoothing
        if class_weights is not None and len(class_weights) != num_classes:
            raise UserError(
                f"loss.class_weights has {len(class_weights)} values",
                expected=f"{num_classes}: one per class",
            )
        each = None if class_weights is None else torch.tensor([float(weight) for weight in class_weights])
        self.register_buffer("class_weights", each, persistent=False)

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Return {dim: (B, C)} for features z (B, D)."""
        return self.head.logits(z)

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of a batch: inputs x (B, ...), y labels (B, ...) int64 or probabilities (B, C)."""
        z, y = select_labelled(self.embed(x), y)
        penalty: Tensor | float = 0.0
        if self.head.balanced and z.requires_grad:
            length = self.weights.norm(self.head.norm)
            z.register_hook(lambda gradient: gradient / length)
            weight = self.head.decorrelation * length  # which its gradient is divided by
            penalty = weight * decorrelation(prefix(z, self.spec.dims[-1]))
        out = self.head(z, y, self.weights, self.label_smoothing, self.class_weights)
        return StepOutput(out.total + penalty, out.losses, out.correct, len(y))

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return sums over the labels of a batch (L, 4): loss, top-1 hits, top-5 hits, number of labels.

        The loss is the cross-entropy without label smoothing.
        """
        z, y = select_labelled(self.embed(x), y)
        z = z.to(torch.promote_types(z.dtype, torch.float32))  # half-precision logits would tie
        with torch.autocast(z.device.type, enabled=False):
            blocks = zip(z.split(BLOCK), y.split(BLOCK), strict=True)
            return torch.stack([batch_sums(self.logits(part), labels) for part, labels in blocks]).sum(0)

    def heads(self) -> Heads:
        """Return a copy of the classifiers, to be stored beside the embeddings."""
        return self.head.stored()


def select_labelled(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Select the samples whose labels count.

    Args:
        z: Features (B, D) of images, or (B, T, D) of tokens.
        y: Labels (B,) or probabilities (B, C), all of which count, or labels (B, T) with some IGNORED.

    Returns:
        Features (N, D) and labels (N,), or probabilities as given.
    """
    if y.ndim == 1 or y.is_floating_point():
        return z, y
    kept = y != IGNORED
    return z[kept], y[kept]


def batch_sums(logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
    """Return (L, 4) sums over a batch: cross-entropy, top-1 hits, top-5 hits, samples."""
    losses = torch.stack([F.cross_entropy(of_dim, labels, reduction="sum") for of_dim in logits.values()])
    return torch.column_stack([losses, nested_hits(logits, labels), torch.full_like(losses, len(labels))])


def _factors(
    dims: Sequence[int],
    tied: bool,
    powers: tuple[float, float],
    classes: float = math.inf,
    shared: bool = False,
) -> Tensor:
    """Return the factor of each classifier (L,), or of each column of a tied one (D,): see `NestedHeads`.

    shared: whether a column learns from all dims that read it, as in the first balanced runs.
    """
    shares = torch.tensor(dims) / USUAL
    below, above = powers
    moved = USUAL * torch.where(shares < 1, shares**below, shares**above)  # by a step, at each dim
    most = STEEPEST * max(1, classes - 1)
    if not tied:
        return (moved.clamp(max=most) / torch.tensor(dims)).sqrt()
    moved = moved * min(1, most / float(moved[-1]))
    start, ends = torch.zeros(1), torch.tensor(dims)
    columns = ends.diff(prepend=start.long())
    teachers = torch.arange(len(dims), 0, -1) if shared else 1
    return (moved.diff(prepend=start) / (columns * teachers)).sqrt().repeat_interleave(columns)
