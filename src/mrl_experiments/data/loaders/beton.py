"""FFCV's .beton files: how images are kept in them, and a look at one before FFCV takes it.

FFCV reads through raw addresses, so a truncated or foreign file would end the process without a word.
"""

import functools
import math
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import os_error

# The file as FFCV 1.0 lays it out: header, fields, one entry per sample, pixels, where each image lies.
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
ARGUMENTS = np.dtype([("shape", "<u8", 32), ("length", "<u8")])  # of an array's field; then its type as JSON
BYTES = b'[["", "|u1"]]'  # the type of pixels
JPG, RAW = 0, 1  # modes of a picture
# Markers of a JPEG that state its size, and those without content.
SIZED = [marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)]
BARE = [0x01, *range(0xD0, 0xD9)]
BLOCK, READERS = 1 << 12, 32  # samples looked at together, threads that do so

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Storage:
    """How images are kept. The paper: train at most 500 px, half of them JPEG at quality 90; validation raw.

    Attributes:
        mode: `raw` pixels, `jpg`, or `proportion`, of which a share is JPEG.
        max_size: Longer sides are reduced to this many pixels first.
        jpeg_quality: Of JPEG, up to 100.
        jpeg_share: The share of `proportion` that becomes JPEG.
    """

    mode: str = "raw"
    max_size: int | None = None
    jpeg_quality: int = 90
    jpeg_share: float = 0.5


def check_beton(path: Path, *, channels: int, num_classes: int, size: int | None = None) -> Labels:
    """Return the labels (N,) of a .beton file, after a look at the header of every sample.

    size: the side in pixels that images of one channel must have.

    Raises:
        UserError: If it is missing, truncated, of another kind, has labels that are no class, or says of a
            sample what is not so.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", expected="a .beton file")
    try:
        status = path.stat()
        kind = ARRAY if channels == 1 else RGB
        labels, shape = _read(path, kind, status.st_size, status.st_mtime_ns)
        if kind == ARRAY and size is not None and shape != (size, size, 1):
            raise ValueError(f"has images of the shape {shape}, not {(size, size, 1)}")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"has labels from {labels.min()} to {labels.max()}, not {num_classes} classes")
    except OSError as error:
        raise os_error(error, path) from error
    except ValueError as error:
        raise UserError(
            f"{path} {error}",
            expected="a complete FFCV file with the fields image and label",
            remedy="delete it and let the project write it again, or write it with scripts/write_imagenet.py",
        ) from None
    return labels


@functools.lru_cache(maxsize=16)
def _read(path: Path, kind: int, size: int, changed: int) -> tuple[Labels, tuple[int, ...]]:
    """Return labels (N,) and the shape of arrays, having followed every address in the file, once.

    Raises:
        ValueError: If an address or a header is wrong.
    """
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
    if size > table + count * PLACE.itemsize:
        raise ValueError(f"has {size} bytes, more than its {count} samples and their index")
    if header["page"].bit_count() != 1:
        raise ValueError(f"has pages of {header['page']} bytes, which is no power of 2")
    samples = np.fromfile(path, SAMPLES[kind], count, offset=start)
    images, places = samples["image"], np.fromfile(path, PLACE, count, offset=table)
    found = _follow(images, places, start + count * SAMPLES[kind].itemsize, table)
    shape: tuple[int, ...] = ()
    if kind == RGB:
        _check_sizes(path, images, found["bytes"])
    else:
        shape = _array_shape(fields["arguments"][0].tobytes())
        _require(found["bytes"] == math.prod(shape), f"has not the bytes of an array of the shape {shape}")
    return samples["label"], shape


def _array_shape(arguments: bytes) -> tuple[int, ...]:
    """Return the shape of all arrays: FFCV copies as many bytes as lie there to where so many have room."""
    (stated,) = np.frombuffer(arguments, ARGUMENTS, 1)
    type_ = arguments[ARGUMENTS.itemsize :][: int(stated["length"])]
    shape = tuple(np.trim_zeros(stated["shape"], "b").tolist())
    if type_ != BYTES or 0 in shape or len(shape) != 3 or shape[-1] != 1:
        raise ValueError(
            f"has arrays of the type {type_[:40]!r} and the shape {shape}, not images of one channel"
        )
    return shape


def _follow(images: NDArray[Any], places: NDArray[Any], start: int, end: int) -> NDArray[Any]:
    """Return where the bytes of each image lie, all between `start` and `end` and none in another's."""
    places = places[np.argsort(places["start"], kind="stable")]
    rows = np.searchsorted(places["start"], images["start"]).clip(max=len(places) - 1)
    found = places[rows]
    fits = (found["start"] == images["start"]) & (found["sample"] == np.arange(len(images)))
    fits &= (found["bytes"] > 0) & (found["start"] >= start) & (found["start"] <= end)
    fits &= found["bytes"] <= end - found["start"].clip(max=end)
    following = places["start"][(rows + 1).clip(max=len(places) - 1)]
    last = rows + 1 == len(places)
    fits &= last | (found["bytes"] <= following - found["start"].clip(max=following))
    _require(fits, "has its pixels where they cannot be")
    return found


def _check_sizes(path: Path, images: NDArray[Any], stored: NDArray[np.uint64]) -> None:
    """Raise ValueError when pictures have no pixels, or others than their bytes say."""
    mode, width, height = images["mode"], images["width"], images["height"]
    _require((mode == RAW) | (mode == JPG), "is neither raw nor JPEG")
    _require((width > 0) & (height > 0), "has no pixels")
    pixels = width.astype(np.uint64) * height * 3
    _require((mode != RAW) | (stored == pixels), "has not the bytes that its width and height need")
    (rows,) = np.nonzero(mode == JPG)
    if not len(rows):
        return
    rows = rows[np.argsort(images["start"][rows])]  # as they lie on the disk
    fits = np.ones(len(images), dtype=bool)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closes when the last view of it ends
    mapped.madvise(mmap.MADV_RANDOM)  # else far more is read than the headers
    content = np.frombuffer(mapped, np.uint8)

    def compare(first: int) -> None:
        part = rows[first : first + BLOCK]
        starts = images["start"][part].astype(np.int64)
        said = _jpeg_sizes(content, starts, starts + stored[part].astype(np.int64))
        fits[part] = (said == np.stack([width[part], height[part]], axis=1)).all(axis=1)

    with ThreadPoolExecutor(READERS) as pool:  # they wait for the disk side by side
        list(pool.map(compare, range(0, len(rows), BLOCK)))
    _require(fits, "is no JPEG of the width and height that the file states for it")


def _jpeg_sizes(content: NDArray[np.uint8], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.int64]:
    """Return (N, 2): width and height as JPEGs state them, 0 for what does not begin and end as one.

    All are followed at once, one marker after the other, until each has come to that of its size.
    """
    sizes = np.zeros((len(starts), 2), dtype=np.int64)
    whole = ends - starts >= 4
    at = np.where(whole, starts, 0)
    whole &= (_number(content, at) == 0xFFD8) & (_number(content, np.where(whole, ends - 2, 0)) == 0xFFD9)
    (active,) = np.nonzero(whole)
    at = starts[active] + 2
    while len(active):
        inside = at + 9 <= ends[active]  # a marker, its length, a depth, height and width
        active, at = active[inside], at[inside]
        kind, length = content[at + 1], _number(content, at + 2)
        marked = content[at] == 0xFF
        sized = marked & np.isin(kind, SIZED)
        sizes[active[sized]] = np.stack(
            [_number(content, at[sized] + 7), _number(content, at[sized] + 5)], axis=1
        )
        step = np.where(kind == 0xFF, 1, np.where(np.isin(kind, BARE), 2, 2 + length))  # 0xFF fills up
        going = marked & ~sized & (kind != 0xDA)  # the picture begins, and no size came before it
        active, at = active[going], at[going] + step[going]
    return sizes


def _number(content: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.int64]:
    return content[at].astype(np.int64) << 8 | content[at + 1]


def _require(fits: NDArray[np.bool_], problem: str) -> None:
    (bad,) = np.nonzero(~fits)
    if len(bad):
        raise ValueError(f"is damaged: sample {bad[0]} {problem} ({len(bad)} of {len(fits)} samples)")
