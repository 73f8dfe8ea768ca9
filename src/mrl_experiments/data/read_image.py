"""The pixels of a sample, whether it is an array already or a file."""

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from mrl_experiments.data.source import Image
from mrl_experiments.errors import UserError


def read_image(value: Image | Path, channels: int) -> Image:
    """Return the pixels (H, W, channels) of an image or of an image file.

    Raises UserError that names a file which cannot be read.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        with Pillow.open(value) as picture:
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        raise UserError(
            f"{value} cannot be read as an image: {error}", remedy="repair or remove the file and repeat"
        ) from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))
