"""Folders of one tiny image each, named as published data sets name theirs."""

import numpy as np
from PIL import Image


def folders(root, names, count=1):
    """Make <root>/<name>/<number>.png for each name and return root."""
    for shade, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), shade % 256, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
