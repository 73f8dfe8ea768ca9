"""The layers of a CNN whose output is a feature map (B, c, h, w)."""

from collections.abc import Sequence
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

    Raises:
        UserError: For a network without feature maps, such as a vision transformer.
    """
    names = [stage["module"] for stage in getattr(_network(method), "feature_info", [])]
    return _layers(method, names, images)


def choose_layer(method: Method, images: Tensor, name: str | None) -> Layer:
    """Return the layer of that name; None: the last stage whose maps have at least 4 x 4 cells.

    That is the paper's `layer4` for a ResNet50 at 224 px.

    Raises:
        UserError: For an unknown or unsuited layer.
    """
    if name is not None:
        try:
            return _layers(method, [name], images)[0]
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
def _layers(method: Method, names: Sequence[str], images: Tensor) -> list[Layer]:
    modules = [_network(method).get_submodule(name) for name in names]
    _, seen = embed_and_watch(method, modules, images[:1])
    found = []
    for name, module, maps in zip(names, modules, seen, strict=True):
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            raise UserError(f"layer {name} has no feature maps (B, c, h, w)", expected="a layer of a CNN")
        found.append(Layer(name, module, (int(maps.shape[2]), int(maps.shape[3]))))
    return found


def embed_and_watch(
    method: Method, modules: Sequence[nn.Module], images: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Return embeddings of images and what each module first gave in that pass, None if it had no part."""
    seen: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, _: object, output: Tensor) -> None:
        seen.setdefault(module, output)

    hooks = [module.register_forward_hook(watch) for module in modules]
    try:
        z = method.embed(images)
    finally:
        for hook in hooks:
            hook.remove()
    return z, [seen.get(module) for module in modules]
