"""Grad-CAM as a picture: a row for each image, a column for each dim."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import fontManager
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.files import atomic_path
from mrl_experiments.gradcam.examples import Examples
from mrl_experiments.gradcam.maps import ClassMaps

INK, MUTED, WRONG = "#1c1f23", "#5f6670", "#b3261e"
STYLE: dict[Any, Any] = {
    "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "svg.fonttype": "none", "svg.hashsalt": "mrl-experiments",
    "text.parse_math": False,  # a name with dollars is a name
}  # fmt: skip
CJK = ("Noto Sans CJK JP", "IPAGothic", "WenQuanYi Zen Hei", "VL Gothic")  # class names may be characters
CELL = 1.35  # inches
LONGEST = 18  # letters of a class's name that fit above a cell


def draw_grid(
    title: str,
    examples: Examples,
    pixels: NDArray[np.float32],
    maps: Mapping[int, ClassMaps],
    names: Sequence[str],
    stem: Path,
) -> list[Path]:
    """Write <stem>.png and <stem>.svg.

    Above each image stands its class, above each map the class predicted at this dim, with a cross where that
    is wrong.

    Args:
        pixels: (B, H, W, C) from 0 to 1.
        names: Of all classes.
    """
    known = {font.name for font in fontManager.ttflist}
    families = ["DejaVu Sans", *[font for font in CJK if font in known][:1]]
    rows, columns = len(pixels), len(maps) + 1
    with matplotlib.rc_context({**STYLE, "font.family": families}):
        canvas = Canvas(figsize=(CELL * columns, (CELL + 0.25) * rows + 0.6), layout="constrained")
        canvas.suptitle(title, fontsize=10, x=0.01, ha="left")
        grid = canvas.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            label = int(examples.labels[row])
            _picture(grid[row][0], pixels[row])
            grid[row][0].set_title(_short(names[label]), fontsize=8)
            for axes, (dim, found) in zip(grid[row][1:], maps.items(), strict=True):
                _overlay(axes, pixels[row], found.heat[row])
                _name(axes, names, int(found.predicted[row]), label)
                if row == rows - 1:
                    axes.set_xlabel(f"{dim} dims", color=INK)
        return [_saved(canvas, stem.with_name(stem.name + suffix)) for suffix in (".png", ".svg")]


def _picture(axes: Axes, pixels: NDArray[np.float32]) -> None:
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _overlay(axes: Axes, pixels: NDArray[np.float32], heat: Tensor) -> None:
    _picture(axes, pixels)
    height, width = pixels.shape[:2]
    axes.imshow(
        heat.numpy(), cmap="turbo", vmin=0, vmax=1, alpha=0.5, interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip


def _name(axes: Axes, names: Sequence[str], predicted: int, label: int) -> None:
    right = predicted == label
    text = _short(names[predicted])
    axes.set_title(text if right else f"{text} ✗", fontsize=8, color=INK if right else WRONG)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _saved(canvas: Canvas, path: Path) -> Path:
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=metadata)
    return path
