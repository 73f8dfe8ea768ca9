"""FFCV's .beton files: how images are kept in them, and a look at one before FFCV takes it.

FFCV reads through raw addresses, so a truncated or foreign file would end the process without a word.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError

# The file as FFCV 1.0 lays it out: header, fields, one entry a sample, pixels, where each image's pixels lie.
VERSION = 2
HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
FIELD = np.dtype([("type", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
PLACE = np.dtype([("sample", "<u8"), ("start", "<u8"), ("bytes", "<u8")], align=True)
NAMES = ("image", "label")
INT, RGB, ARRAY = 1, 2, 4  # types of fields
PICTURE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("start", "<u8")])
SAMPLES = {
    RGB: np.dtype([("image", PICTURE), ("label", "<i8")], align=True),
    ARRAY: np.dtype([("image", [("start", "<u8")]), ("label", "<i8")], align=True),
}
RAW = 1  # mode of a picture


@dataclass(frozen=True)
class Storage:
    """How images are kept: `raw` pixels, `jpg`, or `proportion` (a share `jpeg_share` as JPEG).

    max_size: longer sides are reduced to this many pixels first. The paper: train 500 px, half of them
    JPEG at quality 90; validation raw.
    """

    mode: str = "raw"
    max_size: int | None = None
    jpeg_quality: int = 90
    jpeg_share: float = 0.5


def check_beton(path: Path, *, channels: int, num_classes: int) -> int:
    """Return the number of samples of a .beton file.

    Raises UserError when it is missing, truncated, of another kind, or has labels that are no class.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", expected="a .beton file")
    try:
        labels = _read(path, ARRAY if channels == 1 else RGB)
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"has labels from {labels.min()} to {labels.max()}, not {num_classes} classes")
    except ValueError as error:
        raise UserError(
            f"{path} {error}",
            expected="a complete FFCV file with the fields image and label",
            remedy="delete it and let the project write it again, or write it with scripts/write_imagenet.py",
        ) from None
    return len(labels)


def _read(path: Path, kind: int) -> NDArray[np.int64]:
    """Return the labels, having followed every address in the file. Raises ValueError."""
    size = path.stat().st_size
    start = HEADER.itemsize + len(NAMES) * FIELD.itemsize
    if size < start:
        raise ValueError(f"has only {size} bytes")
    header = np.fromfile(path, HEADER, 1)[0]
    if header["version"] != VERSION or header["fields"] != len(NAMES):
        raise ValueError("is not a file of FFCV 1.0 with two fields")
    fields = np.fromfile(path, FIELD, len(NAMES), offset=HEADER.itemsize)
    names = tuple(bytes(name).rstrip(b"\0").decode("ascii", "replace") for name in fields["name"])
    if names != NAMES or tuple(fields["type"]) != (kind, INT):
        raise ValueError(f"has the fields {dict(zip(names, fields['type'].tolist(), strict=True))}")
    count, table = int(header["samples"]), int(header["table"])
    if count == 0 or table == 0:
        raise ValueError("was never finished: its index is missing")
    if table < start + count * SAMPLES[kind].itemsize or size < table + count * PLACE.itemsize:
        raise ValueError(f"is truncated: {size} bytes, its index begins at {table}")
    samples = np.fromfile(path, SAMPLES[kind], count, offset=start)
    _follow(samples["image"], np.fromfile(path, PLACE, offset=table), table)
    labels: NDArray[np.int64] = samples["label"]
    return labels


def _follow(images: NDArray[Any], places: NDArray[Any], end: int) -> None:
    places = places[np.argsort(places["start"])]
    rows = np.searchsorted(places["start"], images["start"]).clip(max=len(places) - 1)
    found = places[rows]
    fits = (found["start"] == images["start"]) & (found["start"] + found["bytes"] <= end)
    if images.dtype == PICTURE:
        pixels = images["width"].astype(np.uint64) * images["height"] * 3
        fits &= (images["mode"] != RAW) | (found["bytes"] == pixels)
    if not fits.all():
        raise ValueError(f"is damaged: the pixels of {np.count_nonzero(~fits)} samples are not where it says")
