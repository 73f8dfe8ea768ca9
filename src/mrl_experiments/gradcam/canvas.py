"""How matplotlib draws the pictures here, and how they are written."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from mrl_experiments.files import atomic_path

INK, MUTED = "#1c1f23", "#5f6670"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": MUTED, "svg.fonttype": "none", "svg.hashsalt": "mrl-experiments",
    "text.parse_math": False,  # a name with dollars is a name
}  # fmt: skip


def save(canvas: Canvas, path: Path) -> Path:
    """Write a canvas as its suffix says, whole or not at all."""
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        canvas.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=metadata)
    return path
