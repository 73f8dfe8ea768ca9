"""Grad-CAM (Selvaraju et al., ICCV 2017) of the class that a nested classifier predicts, at each dim."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrl_experiments.gradcam.layers import Layer, embed_and_watch
from mrl_experiments.losses.method import Method


@dataclass(frozen=True)
class ClassMaps:
    """The prediction at one dim, and where it looks for it.

    Attributes:
        predicted: (B,) int64.
        heat: (B, h, w), from 0 to 1 at the place that matters most; all 0 where none does.
    """

    predicted: Tensor
    heat: Tensor


def class_maps(method: Method, layer: Layer, images: Tensor, dims: Sequence[int]) -> dict[int, ClassMaps]:
    """Return {dim: maps} of images (B, C, H, W), from one forward pass and a backward pass per dim.

    A feature map weighs as much as the mean gradient of the predicted class's logit on it; the heat is the
    positive part of their weighted sum (Figure 9).
    """
    with torch.enable_grad():
        z, (maps,) = embed_and_watch(method, [layer.module], images.clone().requires_grad_())
        logits = method.logits(z)
    assert maps is not None  # `layer` was found by its maps
    return {dim: _maps(logits[dim], maps) for dim in dims}


def _maps(logits: Tensor, maps: Tensor) -> ClassMaps:
    predicted = logits.argmax(dim=1)
    score = logits.gather(1, predicted[:, None]).sum()  # images do not mix: BatchNorm is in evaluation mode
    (gradient,) = torch.autograd.grad(score, maps, retain_graph=True)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps).sum(dim=1).relu().detach()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return ClassMaps(predicted, heat / torch.where(peak > 0, peak, 1))
