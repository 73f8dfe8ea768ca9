"""Any timm model as a backbone: images (B, C, H, W) to features (B, D)."""

import difflib
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mrl_experiments.errors import UserError, said
from mrl_experiments.models.blurpool import blur_strided_convolutions
from mrl_experiments.models.hub import hub
from mrl_experiments.models.image_features import measure_width
from mrl_experiments.models.pretrained import (
    checked_loading,
    choose_state,
    in_order,
    read_weights,
    weights_file,
)

LARGER = "choose larger images, another architecture, or +model.options.patch_size=4 for a ViT"


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Args:
        arch: The timm name; an old one is mapped as timm does.
        name: How tables call it.
        channels: C of the data's images (B, C, H, W).
        size: H = W of the data's images, in pixels.
        pretrained: None, True or a timm tag (weights are downloaded), or a file of weights or its folder.
        pretrained_by_order: Take a file's tensors module after module, whatever their names; see `in_order`.
        blurpool: Low-pass before strided convolutions (Zhang, 2019), as in the paper's ResNet50.
        options: Further arguments of the timm model (`patch_size`, `drop_path_rate`, ...).

    Attributes:
        shape: Of one image, (C, H, W).
        fixed_size: Whether images of other sizes are refused, as by most vision transformers.
        width: D, measured, since no attribute of timm gives it for all architectures.
        norm: What features go through at the end, see `standardize`.

    Raises:
        UserError: For an unknown architecture or tag, weights that cannot be had or are of another model, or
            a size it cannot take.
    """

    def __init__(
        self,
        *,
        arch: str,
        name: str,
        channels: int,
        size: int,
        pretrained: str | bool | None = None,
        pretrained_by_order: bool | None = False,
        blurpool: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        arch = current_arch(arch)
        self.name = name
        self.shape = (channels, size, size)
        settings = {"num_classes": 0, "in_chans": channels, **(options or {})}
        self.net = _create(arch, pretrained, bool(pretrained_by_order), size, settings)
        self.fixed_size = bool((getattr(self.net, "pretrained_cfg", None) or {}).get("fixed_input_size"))
        if blurpool:
            blur_strided_convolutions(self.net)
        self.width = measure_width(self.net, self.shape, f"model.arch={arch}", LARGER)
        self.norm: nn.Module = nn.Identity()

    def standardize(self) -> bool:
        """Give features mean 0 and variance 1, those of the batch in training, and return whether they are.

        Networks without batch normalization stay without statistics of batches; their features have been
        normalized another way.
        """
        if any(isinstance(module, _BatchNorm) for module in self.net.modules()):
            self.norm = nn.BatchNorm1d(self.width, affine=False)
        return isinstance(self.norm, nn.BatchNorm1d)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D) of images x (B, C, H, W)."""
        return self.norm(self.net(x))


def current_arch(arch: str) -> str:
    """Return the name by which timm knows an architecture now, with its tag where one is named.

    Raises:
        UserError: With near names for an unknown architecture or tag.
    """
    base, _, tag = arch.partition(".")
    if current := timm.models.get_deprecated_models().get(base):
        warnings.warn(f"model.arch={arch}: timm calls it {current} now", stacklevel=2)
        base, _, newest = current.partition(".")
        tag = tag or next(iter(difflib.get_close_matches(newest, _tags(base), n=1, cutoff=0.5)), "")
    if not timm.is_model(base) or timm.models.get_deprecated_models().get(base, base) is None:
        # Names of other hubs end like timm's: hf_hub:timm/resnet50.a1_in1k.
        near = difflib.get_close_matches(re.split("[:/]", base)[-1], timm.list_models(), n=3, cutoff=0.5)
        raise UserError(
            f"model.arch={arch} is not a timm architecture",
            expected=f"a name timm knows{', such as ' + ', '.join(near) if near else ''}",
            remedy="list them with: python -c 'import timm; print(*timm.list_models())'",
        )
    return _tagged(base, tag, f"model.arch={arch}") if tag else base


def _tagged(base: str, tag: str, option: str) -> str:
    """Return a name with its tag, once the architecture is known to have that tag."""
    tags = _tags(base)
    if tag in tags:
        return f"{base}.{tag}"
    near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
    raise UserError(
        f"{option}: timm has no weights of {base} that are tagged {tag}",
        expected=f"a tag such as {', '.join(near)}" if near else "null: there are none of this architecture",
        remedy=f"list them with: python -c 'import timm; print(*timm.list_pretrained(\"{base}.*\"))'",
    )


def _tags(base: str) -> list[str]:
    names = timm.list_models(f"{base}.*", include_tags=True)
    return [name.partition(".")[2] for name in names]


def _create(
    arch: str, pretrained: str | bool | None, by_order: bool, size: int, settings: dict[str, Any]
) -> nn.Module:
    """Return a network of timm with the weights that `pretrained` names."""
    option = f"model.pretrained={str(pretrained).lower() if isinstance(pretrained, bool) else pretrained}"
    file = weights_file(pretrained) if isinstance(pretrained, str) else None
    if isinstance(pretrained, str) and file is None:
        arch = _tagged(arch.partition(".")[0], pretrained, option)
    if by_order and file is None:
        raise UserError("model.pretrained_by_order=true", expected="a file: model.pretrained=<file>")
    config = timm.get_pretrained_cfg(arch)
    if config is not None and config.fixed_input_size:
        settings = {**settings, "img_size": size}
    if not pretrained:
        return _built(arch, settings)
    if file is not None:
        with torch.random.fork_rng(devices=[]):
            shapes = {name: one.shape for name, one in _built(arch, settings).state_dict().items()}
        state, where = choose_state(read_weights(file), shapes)
        if where:
            print(f"{option}: its tensors are those of {where}", flush=True)
        chosen = in_order(state, shapes, option) if by_order else state
        settings = {**settings, "pretrained_cfg_overlay": {"state_dict": chosen, "custom_load": False}}
    with checked_loading(option):
        net = _built(arch, {**settings, "pretrained": True}, option)
    net.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
    return net


def _built(arch: str, settings: dict[str, Any], weights: str = "") -> nn.Module:
    try:
        with hub(weights) if weights else nullcontext():
            return timm.create_model(arch, **settings)
    except UserError:
        raise
    except Exception as error:
        shown = {key: value for key, value in settings.items() if not key.startswith("pretrained")}
        raise UserError(
            f"timm cannot build model.arch={arch} with {shown}{weights and f' and {weights}'}: {said(error)}",
            expected="options the architecture takes, and weights that can be loaded",
            remedy="check model.options and model.pretrained (only a local file needs no network)",
        ) from error
