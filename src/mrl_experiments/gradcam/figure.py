"""The Grad-CAM figure of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.build import load_method, stored_data, trusted_config
from mrl_experiments.errors import UserError
from mrl_experiments.gradcam.examples import named, read_examples, select_informative
from mrl_experiments.gradcam.grid import draw_grid
from mrl_experiments.gradcam.layers import choose_layer
from mrl_experiments.gradcam.maps import class_maps
from mrl_experiments.runs import Run
from mrl_experiments.trust import Trust

AMONG = 1000  # images of a split that are looked at to choose some
SMALLEST = 3  # the smallest, and the full width: 8, 16, 32 and 2048 in the paper


def gradcam_figure(
    run: Run,
    *,
    split: str = "val",
    dims: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
    count: int = 6,
    layer: str | None = None,
    stem: Path | None = None,
    trust: Trust = False,
    cache: str | None = None,
) -> list[Path]:
    """Write the Grad-CAM of images x dims as PNG and SVG (Figure 9) and return both paths.

    Args:
        dims: None: the three smallest dims and the full width.
        images: Numbers within the split; None: `count` that tell dims apart.
        layer: None: the last whose maps show places.
        stem: Where to, without the suffix.
        trust: See trust.py.
        cache: See `build.stored_data`.

    Raises:
        UserError: For an unfinished run, a network without feature maps, and unknown dims or images.
    """
    cfg = trusted_config(run, trust)
    method = load_method(run, trust)
    trained = method.spec.dims
    chosen_dims = tuple(dims or (*trained[:-1][:SMALLEST], trained[-1]))
    if unknown := [dim for dim in chosen_dims if dim not in trained]:
        raise UserError(f"--dims: {run.name} has no dim {unknown[0]}", expected=f"some of {list(trained)}")
    if not images and count < 1:
        raise UserError(f"--count {count}", expected="at least one image")
    with stored_data(run, cfg, cache) as data:
        if split not in data.splits:
            known = ", ".join(data.splits)
            raise UserError(f"--split {split}: {data.name} has none", expected=f"one of {known}")
        examples = read_examples(data, split, max(images) + 1 if images else AMONG)
        named_classes = data.class_facts(split).get("name")
    where = choose_layer(method, examples.images, layer)
    chosen = (
        named(examples, images, split) if images else select_informative(method, examples, chosen_dims, count)
    )
    maps = class_maps(method, where, chosen.images, chosen_dims)
    names = named_classes or [str(label) for label in range(data.num_classes)]
    return draw_grid(
        f"Grad-CAM of {run.name} at {where.name}: {data.name} {split}",
        chosen,
        pixels(chosen.images, cfg.data.augment),
        maps,
        list(map(str, names)),
        stem or run.inside("figures", f"gradcam-{split}"),
    )


def pixels(images: Tensor, augment: DictConfig) -> NDArray[np.float32]:
    """Undo the normalization of images (B, C, H, W): (B, H, W, C) from 0 to 1."""
    mean, std = (np.asarray(list(augment[key]), dtype=np.float32) for key in ("mean", "std"))
    shown: NDArray[np.float32] = images.permute(0, 2, 3, 1).numpy() * std + mean
    return shown.clip(0, 1)
