"""Slimmable networks: one network that also runs with a share of its channels (Yu et al., 2019)."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.classifier import NestedClassifier, batch_sums
from mrl_experiments.losses.method import Inputs, Method, StepOutput
from mrl_experiments.losses.sequential_backward import sequential_backward
from mrl_experiments.losses.slimmable.network import SlimmableNet
from mrl_experiments.nested_accuracy import nested_hits

CALIBRATION_BATCHES = 50  # of training, from which a universal network takes its statistics


class Slim(NestedClassifier):
    """A slimmable network with one `Linear(D, C)`, of which a width reads as many columns as it has features.

    The widths of a step take turns, largest first, and only one holds its activations; see
    `sequential_backward`. `logits` are the paper's protocol: the network at full width, its first features,
    the classifier's first columns. `validate` measures each width with its own features, and so do all but
    the first of `subnetworks`.

    Args:
        backbone: Of images; its `net` becomes a `SlimmableNet`, and its `shape` (C, H, W) says for which.
        num_classes: C.
        name: How messages and tables call the method.
        dim: Must be None; the dims follow from the widths.
        dims: As `dim`.
        weights: Of each width's loss, ascending (mode=switchable only); None: 1 for each.
        label_smoothing: Share of the target given to all classes alike, in [0, 1).
        mode: `switchable` (S-Net): each step trains all widths, each with batch normalization of its own.
            `universal` (US-Net, Yu and Huang, 2019): any width can run. Each step trains the largest, the
            smallest and random ones in between, as many as there are `widths`; all but the largest learn its
            softmax instead of the labels. `finish` then measures the statistics of the `widths`.
        widths: Shares of the channels, ascending to 1.
        recipe: Must be "paper".

    Raises:
        UserError: For options that describe no slimmable network, a backbone that is no CNN of supported
            layers, or two widths with equally many features.

    Example:
        >>> from functools import partial
        >>> from mrl_experiments.models.timm_backbone import TimmBackbone
        >>> tiny = TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=16)
        >>> slim = partial(Slim, num_classes=10, name="slim", dim=None, dims=None, weights=None)
        >>> slim(tiny, label_smoothing=0.1, mode="switchable", widths=[0.5, 1.0]).spec.dims
        (48, 96)
    """

    soft_targets = False

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        dim: int | None,
        dims: Sequence[int] | None,
        weights: Sequence[float] | None,
        label_smoothing: float,
        mode: str,
        widths: Sequence[float],
        recipe: str = "paper",
    ) -> None:
        if recipe != "paper":
            raise UserError(f"loss.recipe={recipe}", expected=f"paper, with loss={name}")
        _check(mode, widths, dim=dim, dims=dims, weights=weights if mode == "universal" else None)
        shape = getattr(backbone, "shape", None)  # of one image, which backbones of images say
        if shape is None:
            kind = type(backbone).__name__
            raise UserError(f"loss={name} narrows CNNs, not a {kind}", remedy="model=resnet18")
        self.widths, self.universal = tuple(float(width) for width in widths), mode == "universal"
        self.static_shapes = not self.universal
        network = cast(nn.Module, backbone.net)
        backbone.net = net = SlimmableNet(network, shape, self.widths, universal=self.universal)
        if len(set(net.dims)) < len(net.dims):
            raise UserError(
                f"loss.widths={list(widths)} have {list(net.dims)} features",
                expected="widths so far apart that each has its own number of features",
            )
        options: dict[str, Any] = {"name": name, "weights": weights, "label_smoothing": label_smoothing}
        super().__init__(backbone, num_classes, dims=net.dims, tied=True, **options)

    @property
    def net(self) -> SlimmableNet:
        """The slimmable network."""
        return cast(SlimmableNet, self.backbone.net)

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of a batch.

        Args:
            x: (B, C, H, W) images.
            y: (B,) labels, int64.

        Returns:
            The total, and the loss and hits of each dim. In universal mode the dims between the smallest and
            the largest, which random widths miss, have NaN.
        """
        widths, weights, found = self.step_widths(), self.weights.flip(0), []

        def passes() -> Iterator[Tensor]:
            target, smoothing = y, self.label_smoothing
            for width, weight in zip(widths, weights, strict=True):
                with self.net.at(width):
                    logits = self._classify(self.embed(x))
                loss = F.cross_entropy(logits, target, label_smoothing=smoothing)
                hits = nested_hits(logits.detach()[:, None], y, k=(1,))[0, 0]
                figures = torch.stack([loss.detach(), hits])
                found.append(figures if width in self.widths else torch.full_like(figures, torch.nan))
                if self.universal and target is y:  # the others learn what the largest says
                    target, smoothing = logits.detach().softmax(dim=-1), 0.0
                yield weight * loss

        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        total = sequential_backward(passes(), trained)
        losses, correct = torch.stack(found).flip(0).unbind(dim=1)
        return StepOutput(total, losses, correct, len(y))

    def step_widths(self) -> list[float]:
        """Return the widths of one step, descending.

        Universal networks draw those between the ends, each process its own.
        """
        if not self.universal:
            return list(reversed(self.widths))
        smallest, largest = self.widths[0], self.widths[-1]
        between = smallest + (largest - smallest) * torch.rand(len(self.widths) - 2, dtype=torch.float64)
        return [largest, *sorted(between.tolist(), reverse=True), smallest]

    def _classify(self, z: Tensor) -> Tensor:
        weight, bias = self.head.parameters_at(z.shape[-1])
        assert bias is not None
        exact = torch.promote_types(z.dtype, torch.float32)  # half-precision logits would tie
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z.to(exact), weight.to(exact), bias.to(exact))

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, 4) as every method does, each dim by the width that has it; zeros before `finish`."""
        rows = []
        for width, dim in zip(self.widths, self.spec.dims, strict=True):
            if not self.net.known(width):
                rows.append(self.weights.new_zeros(1, len(self.metrics) + 1))
                continue
            with self.net.at(width):
                z = self.embed(x)
            rows.append(batch_sums({dim: self._classify(z)}, y))
        return torch.cat(rows)

    def finish(self, batches: Iterable[Inputs]) -> bool:
        """Recalibrate a universal network; return whether anything changed."""
        if self.universal:
            self.net.recalibrate(itertools.islice(cast(Iterable[Tensor], batches), CALIBRATION_BATCHES))
        return self.universal

    def subnetworks(self) -> Mapping[str, Method]:
        """Return the network at full width, truncated as in the paper, and each narrower subnetwork.

        Returns:
            {"": the full network, "w0.5": the subnetwork of half its channels, ...}.

        Raises:
            UserError: When the narrower ones have no statistics yet.
        """
        unknown = [width for width in self.widths if not self.net.known(width)]
        if unknown:
            raise UserError(
                f"batch normalization has no statistics at the widths {unknown}",
                expected="a run that has finished, since the end of training measures them",
                remedy="repeat the run's train.py command",
            )
        *narrower, full = zip(self.widths, self.spec.dims, strict=True)
        return {"": self._subnetwork(*full)} | {
            f"w{width:g}": self._subnetwork(width, dim) for width, dim in narrower
        }

    @torch.no_grad()
    def _subnetwork(self, width: float, dim: int) -> NestedClassifier:
        weight, bias = self.head.parameters_at(dim)
        backbone, smoothing = AtWidth(self.backbone, width, dim), self.label_smoothing
        part = NestedClassifier(
            backbone, len(weight), dims=(dim,), tied=width == 1, label_smoothing=smoothing
        )
        for own, shared in zip(part.head.parameters_at(dim), (weight, bias), strict=True):
            cast(Tensor, own).copy_(cast(Tensor, shared))
        return part


class AtWidth(nn.Module):
    """A slimmable backbone that always runs at one width.

    Args:
        backbone: Whose `net` is a SlimmableNet.
        share: Of its channels.
        features: How many it has then; `width` of this backbone.
    """

    def __init__(self, backbone: nn.Module, share: float, features: int) -> None:
        super().__init__()
        self.backbone, self.share, self.width = backbone, share, features

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, d) of images x (B, C, H, W)."""
        with cast(SlimmableNet, self.backbone.net).at(self.share):
            return self.backbone(x)


def _check(mode: str, widths: Sequence[float], **without_meaning: Any) -> None:
    """Raise UserError for options that do not describe a slimmable network."""
    for option, value in without_meaning.items():
        if value is not None:
            raise UserError(
                f"loss.{option}={value} has no meaning for loss.mode={mode}",
                expected=f"loss.{option}=null",
                remedy="set loss.widths, shares of the backbone's channels, from which the dims follow",
            )
    if widths[-1] != 1:
        raise UserError(
            f"loss.widths={list(widths)}", expected="shares of the channels, ascending, the last 1.0"
        )
