"""The pixels of a sample, whether it is an array already or a file."""

import hashlib
import io
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageCms, ImageOps
from PIL import Image as Pillow

from mrl_experiments.data.source import Image
from mrl_experiments.data.tally import Tally, shown
from mrl_experiments.errors import UserError

GROUND = (255, 255, 255)  # what shows through where a picture is transparent
OVERSHOOT = 0.1  # by which resampled floating-point values may leave their range
DIGEST_BYTES = 8
SHOWN = 5  # broken files that an error names
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF


def read_image(value: Image | Path, channels: int, converted: Tally | None = None) -> Image:
    """Return the pixels (H, W, channels) uint8 of an image or of an image file.

    A file is read as a viewer shows it: turned as its EXIF orientation says, its first frame, colours as RGB,
    transparent parts on white. More than 8 bits are scaled by their depth; values without a depth of their
    own (32 bits, floating point) by the smallest of 1 (floating point only), 255 and 65,535 that holds all of
    them, else from the smallest to the largest. What is so changed is counted in `converted`.
    Raises UserError that names a file which cannot be read.
    """
    if isinstance(value, np.ndarray):
        return value
    return _decoded(_content(value), value, channels, Tally() if converted is None else converted)


class UnreadableImages(UserError):
    """Images of a split that cannot be read, all of them."""


@dataclass
class Readings:
    """What came of reading many samples; a worker process has one each.

    broken: {sample: problem}. digests: {sample: hash of the file}.
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

    Raises UnreadableImages, which counts all files that cannot be read and names the first.
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


def _decoded(content: bytes, path: Path, channels: int, converted: Tally) -> Image:
    if not content:
        raise _unreadable(path, "it is empty")
    kinds: list[str] = []
    try:
        # Warnings of Pillow, such as for pictures of more than 89 megapixels, would repeat with each process.
        with warnings.catch_warnings(action="ignore"), Pillow.open(io.BytesIO(content)) as picture:
            pixels = _pixels(picture, "RGB" if channels == 3 else "L", kinds)
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        why = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        raise _unreadable(path, "its format is not known" if "BytesIO" in why else why) from error
    for kind in kinds:
        converted.add(kind, path)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


def _pixels(picture: Pillow.Image, mode: str, kinds: list[str]) -> NDArray[np.uint8]:
    """Return pixels of mode RGB or L; `kinds` gets what was changed on the way."""
    if getattr(picture, "is_animated", False):
        kinds.append("of several frames, the first of which is read")
    if picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        kinds.append("turned as EXIF says")
    picture.load()  # which turns a TIFF already
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode == "F" or picture.mode[0] == "I":
        picture = _scaled(picture, kinds)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture.getchannel("A")).min() < 255:
            kinds.append("transparent, laid on white")
            picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, GROUND), picture)
    elif picture.mode not in ("1", "L", "P", "RGB", "RGBX"):
        kinds.append(f"converted from {picture.mode}")
    if picture.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
        assert turned is not None
        picture = turned
    if picture.mode in ("P", "PA") and mode == "L":
        picture = picture.convert("RGB")
    return np.asarray(picture.convert(mode))


def _scaled(picture: Pillow.Image, kinds: list[str]) -> Pillow.Image:
    """Return a grey picture of more than 8 bits in 8 bits."""
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        kinds.append("of floating-point values, scaled to 8 bits")
        whites: tuple[int, ...] = (1, 255, 65535)
    elif picture.mode == "I" and picture.format != "PPM":
        kinds.append("of 32 bits, scaled to 8")
        whites = (255, 65535)
    else:
        kinds.append("of 16 bits, scaled to 8")
        whites = (4095,) if tags.get(BITS_PER_SAMPLE) == (12,) else (65535,)
    low, high = float(values.min()), float(values.max())
    slack = OVERSHOOT if picture.mode == "F" else 0.0
    white = next((w for w in whites if low >= -slack * (w == 1) and high <= w * (1 + slack)), None)
    base, span = (0.0, float(white)) if white is not None else (low, high - low or 1.0)
    grey = np.rint(((values - base) / span).clip(0, 1) * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if (clear := picture.info.get("transparency")) is None:
        return Pillow.fromarray(grey)
    opaque = np.where(values == clear, 0, 255).astype(np.uint8)
    return Pillow.merge("LA", (Pillow.fromarray(grey), Pillow.fromarray(opaque)))
