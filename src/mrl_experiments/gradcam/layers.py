"""The layers of a CNN whose output is a picture still: feature maps (B, c, h, w)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method

COARSEST = 4  # cells a side: fewer show no place


@dataclass(frozen=True)
class Layer:
    """A layer by its name in the timm model, with the side (h, w) of its maps."""

    name: str
    module: nn.Module
    side: tuple[int, int]


def stages(method: Method, images: Tensor) -> list[Layer]:
    """Return the stages of a run's CNN, first to last, as they see `images` (B, C, H, W).

    Raises UserError for a network without feature maps, such as a vision transformer.
    """
    net = _network(method)
    names = [stage["module"] for stage in getattr(net, "feature_info", [])]
    return [Layer(name, net.get_submodule(name), _side(method, name, images)) for name in names]


def choose_layer(method: Method, images: Tensor, name: str | None) -> Layer:
    """Return the layer of that name; None: the last stage whose maps have at least 4 x 4 cells.

    That is the paper's `layer4` for a ResNet50 at 224 px. Raises UserError for an unknown or unsuited layer.
    """
    if name is not None:
        try:
            return Layer(name, _network(method).get_submodule(name), _side(method, name, images))
        except AttributeError as error:
            known = ", ".join(layer.name for layer in stages(method, images))
            raise UserError(f"--layer {name}: the network has none of that name", expected=known) from error
    found = stages(method, images)
    fine = [layer for layer in found if min(layer.side) >= COARSEST]
    if not fine:
        known = ", ".join(layer.name for layer in found) or "none"
        raise UserError(
            f"no stage of the network has {COARSEST} x {COARSEST} cells on images of {images.shape[-1]} px",
            expected=f"a layer of a CNN; its stages: {known}",
            remedy="name one: --layer <module>",
        )
    return fine[-1]


def _network(method: Method) -> nn.Module:
    net = getattr(method.backbone, "net", None)
    if not isinstance(net, nn.Module):
        raise UserError("Grad-CAM needs a CNN of images", expected="a run of loss=ff, mrl or mrl_e on images")
    return net


@torch.no_grad()
def _side(method: Method, name: str, images: Tensor) -> tuple[int, int]:
    seen: list[Tensor] = []
    hook = _network(method).get_submodule(name).register_forward_hook(lambda *call: seen.append(call[-1]))
    try:
        method.embed(images[:1])
    finally:
        hook.remove()
    if not seen or not isinstance(seen[0], Tensor) or seen[0].ndim != 4:
        raise UserError(f"layer {name} has no feature maps (B, c, h, w)", expected="a layer of a CNN")
    return int(seen[0].shape[2]), int(seen[0].shape[3])
