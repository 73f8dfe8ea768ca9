"""The pixels of a sample, whether it is an array already or a file."""

import functools
import hashlib
import io
import re
import stat
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageCms, ImageOps, UnidentifiedImageError
from PIL import Image as Pillow

from mrl_experiments.data.reading import Tally, shown
from mrl_experiments.data.source import Image
from mrl_experiments.errors import UserError, said

GROUND = (255, 255, 255)  # what shows through where a picture is transparent
OVERSHOOT = 0.1  # by which resampled floating-point values may leave their range
DIGEST_BYTES = 8
SHOWN = 5  # broken files that an error names
# TIFF's tags, and some of their values.
BITS_PER_SAMPLE, PHOTOMETRIC, MOST, SAMPLE_FORMAT = 258, 262, 281, 339
WHITE_IS_ZERO, SIGNED = 0, 2
# What Pillow calls channels of fewer or more than 8 bits, of which it makes 8.
RAW = re.compile(r"L;([24])|(?:LA|RGB[AXa]*);(16)[BLN]")
# How files begin that bear the name of a picture and cannot be read as one.
BEGINNINGS = {
    b"II*\0": "a TIFF of a kind that Pillow does not know, such as 64 bits or other than 1, 3 or 4 channels",
    b"MM\0*": "a TIFF of a kind that Pillow does not know, such as 64 bits or other than 1, 3 or 4 channels",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched (git lfs pull)",
    b"<": "text such as HTML or SVG",
    b"%!": "PostScript, which is not run",
    b"%PDF": "a PDF",
}


def read_image(value: Image | Path | Pillow.Image, channels: int, converted: Tally | None = None) -> Image:
    """Return the pixels (H, W, channels) uint8 of an image, of one that Pillow has opened, or of a file.

    A file is read as a viewer shows it: turned as its EXIF orientation says, its first frame, colours as RGB,
    transparent parts on white. More than 8 bits are scaled by their depth; values without a depth of their
    own (32 bits, signed, floating point) by the smallest of 1 (floating point only), 255 and 65,535 that
    holds all of them, else from the smallest to the largest. What is so changed is counted in `converted`.

    Raises:
        UserError: If a file cannot be read.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Pillow.Image):
        pixels = _pixels(value.copy(), "RGB" if channels == 3 else "L", [])
        return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))
    return _decoded(_content(value), value, channels, Tally() if converted is None else converted)


def read_bytes(content: bytes, name: str, channels: int, *, formats: Sequence[str], pixels: int) -> Image:
    """Return the pixels (H, W, channels) uint8 of a file that came from elsewhere, read as `read_image` does.

    Args:
        content: The file.
        name: How an error calls it.
        channels: 1 or 3.
        formats: Which it may have, as Pillow calls them.
        pixels: How many it may have; they are counted before any is decoded.

    Raises:
        UserError: If it cannot be read, or has more.
    """
    return _decoded(content, Path(name), channels, Tally(), formats, pixels)


class UnreadableImages(UserError):
    """Images of a split that cannot be read, all of them."""


@dataclass
class Readings:
    """What came of reading many samples; a worker process has one each.

    Attributes:
        converted: What was read otherwise than it is stored.
        broken: {sample: problem}.
        digests: {sample: hash of the file}.
    """

    converted: Tally = field(default_factory=Tally)
    broken: dict[int, str] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)

    def read(self, index: int, value: Image | Path, channels: int) -> Image | None:
        """Return the pixels of a sample as `read_image` does, or None where it cannot be read."""
        if isinstance(value, np.ndarray):
            return value
        try:
            content = _content(value)
            self.digests[index] = digest_of(content)
            return _decoded(content, value, channels, self.converted)
        except UserError as error:
            self.broken[index] = error.problem
            return None


def gathered(parts: Iterable[Readings], count: int) -> dict[str, Any]:
    """Return what a manifest keeps of reading `count` samples: conversions, and digests where they are files.

    Raises:
        UnreadableImages: If files cannot be read: all are counted, and the first named.
    """
    whole = Readings()
    for part in parts:
        whole.converted.add_all(part.converted)
        whole.broken |= part.broken
        whole.digests |= part.digests
    if whole.broken:
        first = [whole.broken[index] for index in sorted(whole.broken)]
        more = [f"and {len(first) - SHOWN:,} more"] if len(first) > SHOWN else []
        counted = [f"{len(first):,} of {count:,} images cannot be read:", *first[:SHOWN], *more]
        raise UnreadableImages(
            first[0] if len(first) == 1 else "\n  ".join(counted),
            remedy=f"repair or remove the file{'s' * (len(first) > 1)} and repeat",
        )
    if not whole.digests:
        return {}
    digests = "".join(whole.digests.get(index, "0" * 2 * DIGEST_BYTES) for index in range(count))
    return {"converted": whole.converted.described(), "digests": digests}


def digest_of(content: bytes) -> str:
    """Return a short hash of a file's content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or error) from error


def _unreadable(path: Path, why: object) -> UserError:
    return UserError(
        f"{shown(path)} cannot be read as an image: {why}", remedy="repair or remove the file and repeat"
    )


def _decoded(
    content: bytes,
    path: Path,
    channels: int,
    converted: Tally,
    formats: Sequence[str] = (),
    most: int | None = None,
) -> Image:
    if not content:
        raise _unreadable(path, "it is empty")
    kinds: list[str] = []
    try:
        # Warnings of Pillow, such as for pictures of more than 89 megapixels, would repeat with each process.
        # What silences them is no matter of one thread, and pictures from elsewhere are read in several.
        quiet = warnings.catch_warnings(action="ignore") if most is None else nullcontext()
        with quiet, Pillow.open(io.BytesIO(content), formats=tuple(formats) or _formats()) as picture:
            if most is not None and picture.width * picture.height > most:
                raise ValueError(f"it has {picture.width:,} x {picture.height:,} pixels, more than {most:,}")
            pixels = _pixels(picture, "RGB" if channels == 3 else "L", kinds)
    except UnidentifiedImageError as error:
        why = f"its format is none of {', '.join(formats)}" if formats else _format_of(content)
        raise _unreadable(path, why) from error
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        raise _unreadable(path, said(error)) from error
    for kind in kinds:
        converted.add(kind, path)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


@functools.cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads itself; for EPS it would start another program."""
    Pillow.init()
    return [name for name in Pillow.ID if name != "EPS"]


def _format_of(content: bytes) -> str:
    """Return what a file that is no picture seems to be."""
    if content[4:8] == b"ftyp":
        return "it is HEIC or a film, which Pillow does not know: convert it, for example to JPEG"
    start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    known = next((what for beginning, what in BEGINNINGS.items() if start.startswith(beginning)), "")
    return f"it is {known}" if known else "its format is not known"


def _pixels(picture: Pillow.Image, mode: str, kinds: list[str]) -> NDArray[np.uint8]:
    """Return pixels of mode RGB or L; `kinds` gets what was changed on the way."""
    if getattr(picture, "is_animated", False):
        kinds.append("of several frames, the first of which is read")
    depth = _depth(picture)
    turned = _orientation(picture, kinds)
    picture.load()  # which turns a TIFF already
    if turned:
        kinds.append("turned as EXIF says")
        ImageOps.exif_transpose(picture, in_place=True)
    signed = picture.mode == "L" and _tag(picture, SAMPLE_FORMAT) == SIGNED
    if picture.mode == "F" or picture.mode[0] == "I" or signed:
        picture = _scaled(picture, kinds)
    elif depth != 8:
        _scale_clear(picture, depth)
        if depth > 8:
            kinds.append("of 16 bits, scaled to 8")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture.getchannel("A")).min() < 255:
            kinds.append("transparent, laid on white")
            picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, GROUND), picture)
    elif picture.mode not in ("1", "L", "P", "RGB", "RGBX"):
        kinds.append(f"converted from {picture.mode}")
    if picture.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        colored = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
        assert colored is not None
        picture = colored
    if picture.mode in ("P", "PA") and mode == "L":
        picture = picture.convert("RGB")
    return np.asarray(picture.convert(mode))


def _depth(picture: Pillow.Image) -> int:
    """Return the bits of a channel of which Pillow makes 8 by itself: 2, 4 or 16; else 8."""
    for part in getattr(picture, "tile", ()):
        for value in part.args if isinstance(part.args, tuple) else (part.args,):
            if found := RAW.fullmatch(f"{value}"):
                return int(found[1] or found[2])
            if picture.format == "PPM" and picture.mode == "RGB" and isinstance(value, int) and value > 255:
                return 16
    return 8


def _scale_clear(picture: Pillow.Image, depth: int) -> None:
    """Scale the colour that is transparent as Pillow has scaled the others."""

    def scaled(value: int) -> int:
        return value >> (depth - 8) if depth > 8 else value * 255 // (2**depth - 1)

    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        picture.info["transparency"] = scaled(clear)
    elif isinstance(clear, tuple):
        picture.info["transparency"] = tuple(map(scaled, clear))


def _orientation(picture: Pillow.Image, kinds: list[str]) -> bool:
    """Return whether EXIF turns a picture; what cannot be read there is passed over."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # as with pictures, nearly anything
        kinds.append("with EXIF that cannot be read")
        return False


def _tag(picture: Pillow.Image, tag: int) -> Any:
    """Return the value of a TIFF's tag, None where channels differ or there is none."""
    value = getattr(picture, "tag_v2", {}).get(tag)
    values = set(value) if isinstance(value, tuple) else {value}
    return values.pop() if len(values) == 1 else None


def _scaled(picture: Pillow.Image, kinds: list[str]) -> Pillow.Image:
    """Return a grey picture of more than 8 bits, or of signed ones, in 8 bits."""
    values = _values(picture)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    whites: tuple[int, ...] = (255, 65535)
    if picture.mode == "F":
        kinds.append("of floating-point values, scaled to 8 bits")
        whites = (1, 255, 65535)
    elif _tag(picture, BITS_PER_SAMPLE) == 32:
        kinds.append("of 32 bits, scaled to 8")
    elif _tag(picture, SAMPLE_FORMAT) == SIGNED:
        kinds.append("of signed values, scaled to 8 bits")
    else:
        most = 4095 if _tag(picture, BITS_PER_SAMPLE) == 12 else _tag(picture, MOST) or 65535
        whites = (most,) if high <= most else (65535,)
        dark = whites == (65535,) and high < 4096
        kinds.append(f"of 16 bits, scaled to 8{' and dark, since none exceeds 4,095' if dark else ''}")
    slack = OVERSHOOT if picture.mode == "F" else 0.0
    white = next((w for w in whites if low >= -slack * (w == 1) and high <= w * (1 + slack)), None)
    base, span = (0.0, float(white)) if white is not None else (low, high - low or 1.0)
    grey = np.rint(((values - base) / span).clip(0, 1) * 255).astype(np.uint8)
    if _tag(picture, PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if (clear := picture.info.get("transparency")) is None:
        return Pillow.fromarray(grey)
    opaque = np.where(values == clear, 0, 255).astype(np.uint8)
    return Pillow.merge("LA", (Pillow.fromarray(grey), Pillow.fromarray(opaque)))


def _values(picture: Pillow.Image) -> NDArray[np.float64]:
    """Return the numbers (H, W) of a grey picture; Pillow takes some for others of as many bits."""
    values = np.asarray(picture)
    if values.dtype == np.uint8:
        values = values.view(np.int8)
    elif picture.mode == "I" and _tag(picture, BITS_PER_SAMPLE) == 32:
        values = values.view(np.int32 if _tag(picture, SAMPLE_FORMAT) == SIGNED else np.uint32)
    return values.astype(np.float64)
