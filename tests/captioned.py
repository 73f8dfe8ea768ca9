"""A folder of small pictures with captions, and what trains two towers on it in seconds."""

import csv

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "grey": (120, 120, 120)}
PATTERNS = ("stripes", "checks", "plain")
CLASSES = [(colour, pattern) for colour in COLOURS for pattern in PATTERNS]


def picture(colour, pattern, random, size=32):
    y, x = np.mgrid[:size, :size] // 4
    bright = {"stripes": y % 2, "checks": (y + x) % 2, "plain": np.ones((size, size))}[pattern]
    pixels = bright[..., None] * np.array(COLOURS[colour]) + random.normal(0, 12, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def captions(colour, pattern):
    return [f"{colour} {pattern}", f"a picture of {pattern} in {colour}"]


def write_table(folder, images=6, splits=("train", "val")):
    """Write pictures of each class for each split; all of a class share two captions, so they are a label."""
    random = np.random.default_rng(0)
    rows = []
    for split in splits:
        for number, (colour, pattern) in enumerate(CLASSES):
            for image in range(images):
                name = f"{split}-{number}-{image}.png"
                picture(colour, pattern, random).save(folder / name)
                for text in captions(colour, pattern):
                    rows.append({"image": name, "caption": f"{text}, {split}", "split": split})
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "captions.csv"


def options(table):
    """Return the overrides of train.py for two towers as small as they come."""
    text = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
    return [
        *("data=image_text_folder", f"data.root={table}", "data.vocabulary=280", "data.length=16"),
        *("data.size=32", "data.batch_size=24", "data.loader=torch", "data.workers=1"),
        *("model=dual_encoder", "model.arch=test_resnet", "model.width=16", f"model.text.options={text}"),
        *("optim=adamw_cosine", "logger=csv", "trainer.progress=false", "trainer.precision=32-true"),
    ]
