"""A folder that timm loads: "local-dir:<folder>", or by the same files "hf-hub:<repository>"."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mrl_experiments.errors import UserError, said
from mrl_experiments.export.graphs import parts
from mrl_experiments.heads import Heads
from mrl_experiments.loaded.inputs import ImageInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.losses.slimmable.network import SlimmableNet
from mrl_experiments.models.blurpool import BlurredConv2d
from mrl_experiments.models.dual_encoder import DualEncoder
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.nesting import prefix

HEADS = "heads.safetensors"
STANDARDIZATION = "standardization.safetensors"
CLOSE = 1e-4  # of the largest output: rounding
INTERPOLATION = "hamming"  # of the loader without FFCV


def check_timm(model: LoadedModel) -> None:
    """Raise UserError in one line where timm cannot express a run's network."""
    backbone = model.method.backbone
    backbone = backbone.image if isinstance(backbone, DualEncoder) else backbone
    if not isinstance(backbone, TimmBackbone):
        raise _refused(model, f"its backbone is a {type(backbone).__name__}")
    if isinstance(backbone.net, SlimmableNet):
        raise _refused(model, "its network is slimmable (loss=slim)")
    if any(isinstance(module, BlurredConv2d) for module in backbone.modules()):
        raise _refused(model, "its convolutions are blurred (model.blurpool=true)")


def write_timm(model: LoadedModel, folder: Path, dim: int, config: Mapping[str, Any]) -> None:
    """Write model.safetensors, config.json and, where they belong, heads and standardization.safetensors.

    timm's classifier is that of `dim`, whose columns behind it are zero, so that its logits are those of the
    first features; standardization of features is part of it. Of an image tower it is the projection, so that
    what looks like logits is the vector.

    Args:
        model: A run whose backbone is a timm model, or whose image tower is.
        folder: Is filled.
        dim: A nested dim.
        config: Further keys of config.json.

    Raises:
        UserError: If timm cannot express it.
    """
    check_timm(model)
    network, mapped = _classifying(model, dim)
    images = model.inputs if isinstance(model.inputs, ImageInputs) else model.inputs.images  # type: ignore[attr-defined]
    augment, channels = images.augment, images.channels
    preprocessing = {
        "input_size": (channels, images.size, images.size),
        "mean": _of_channels(augment.mean, channels),
        "std": _of_channels(augment.std, channels),
        "crop_pct": augment.center,
        "crop_mode": "center",
        "interpolation": INTERPOLATION,
    }
    names = {"label_names": model.classes} if model.classes else {}
    # What timm says of the weights that the architecture's author published is not true of these.
    theirs = dict.fromkeys(("license", "origin_url", "paper_ids", "paper_name", "notes"))
    own = {"pretrained_cfg": {"tag": "matryoshka", **theirs}}
    timm.models.save_for_hf(
        network,
        str(folder),
        model_config={**names, **config, **own},
        data_config=preprocessing,
        safe_serialization=True,
    )
    if model.heads is not None:
        _of_raw_features(model, model.heads).save(folder / HEADS)
    if (statistics := standardization(model)) is not None:
        save_file(dict(zip(("mean", "factor"), statistics, strict=True)), folder / STANDARDIZATION)
    _check_same(model, folder, mapped)


def _of_channels(values: Any, channels: int) -> tuple[float, ...]:
    return tuple(map(float, values)) if len(values) == channels else (float(values[0]),) * channels


def _classifying(model: LoadedModel, dim: int) -> tuple[nn.Module, tuple[Tensor, Tensor] | None]:
    """Return a copy of the network with a classifier, and weight and bias of the run's own one."""
    backbone = model.method.backbone
    if isinstance(backbone, DualEncoder):
        weight = backbone.project_image.weight.detach().cpu()
        bias, network = torch.zeros(len(weight)), backbone.image.net
        weight = torch.where(torch.arange(len(weight))[:, None] < dim, weight, 0)  # dims behind are zero
        mapped = weight, bias
    elif model.heads is None:
        return copy.deepcopy(backbone.net).cpu(), None  # type: ignore[return-value]
    else:
        weight, bias = _widened(_of_raw_features(model, model.heads), dim, model.width)
        mapped, network = _widened(model.heads, dim, model.width), backbone.net  # type: ignore[assignment]
    network = copy.deepcopy(network).cpu()
    classifier: Any = None
    try:
        network.reset_classifier(len(weight))  # type: ignore[operator]
        classifier = network.get_classifier()  # type: ignore[operator]
    except Exception as error:  # each architecture has its own head
        raise _refused(model, f"{type(network).__name__} takes no classifier: {said(error)}") from error
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != weight.shape:
        raise _refused(model, f"the head of {type(network).__name__} is no linear layer on all features")
    with torch.no_grad():
        classifier.weight.copy_(weight)
        if classifier.bias is not None:
            classifier.bias.copy_(bias)
        elif bias.any():
            raise _refused(model, f"the head of {type(network).__name__} has no bias")
    return network.eval(), mapped


def _widened(heads: Heads, dim: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the classifier of a dim as one of all features, those behind it with weight 0."""
    weight, bias = map(torch.from_numpy, heads.at(dim))
    return torch.nn.functional.pad(weight, (0, width - dim)), bias


def standardization(model: LoadedModel) -> tuple[Tensor, Tensor] | None:
    """Return what is subtracted from features and what they are multiplied by then, (D,) each, if they are.

    See `TimmBackbone.standardize`; timm's networks have no such layer.
    """
    norm = getattr(model.method.backbone, "norm", None)
    if not isinstance(norm, nn.BatchNorm1d):
        return None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.cpu().clone(), (norm.running_var + norm.eps).rsqrt().cpu()


def _of_raw_features(model: LoadedModel, heads: Heads) -> Heads:
    """Return the classifiers of features that are not standardized; a dim's mean adds to its own bias."""
    statistics = standardization(model)
    if statistics is None:
        return heads
    mean, factor = (value.numpy() for value in statistics)
    weights = {dim: heads.at(dim)[0] * prefix(factor, dim) for dim in model.dims}
    biases = {dim: heads.at(dim)[1] - weight @ prefix(mean, dim) for dim, weight in weights.items()}
    return Heads(weights, biases, tied=False)


@torch.no_grad()
def _check_same(model: LoadedModel, folder: Path, mapped: tuple[Tensor, Tensor] | None) -> None:
    """Raise UserError unless timm, reading the folder, computes what the run does."""
    logging.getLogger("timm").setLevel(logging.WARNING)  # without the folder that it reads, a temporary one
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:
        raise _refused(model, f"timm cannot read it back: {said(error)}") from error
    images = next(example for name, example, _ in parts(model).values() if name == "images")
    backbone = model.method.backbone
    network = backbone.image if isinstance(backbone, DualEncoder) else backbone
    expected = network.cpu()(images)
    if mapped is not None:
        expected = torch.nn.functional.linear(expected, *mapped)
    found = loaded(images)
    if found.shape != expected.shape or (found - expected).abs().max() > CLOSE * expected.abs().max():
        raise _refused(model, "as timm builds it, it gives other logits")


def _refused(model: LoadedModel, why: str) -> UserError:
    return UserError(
        f"timm cannot express run {model.run.name}: {why}",
        expected="a timm model as timm builds it, with classifiers on its features",
        remedy="format=onnx or format=torch_export takes any network",
    )
