"""One glyph as a small gray image, and its random perturbation."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFont, ImageOps

from mrl_experiments.data.kanji.faces import Face
from mrl_experiments.data.source import Image
from mrl_experiments.errors import UserError

SIZE = 32  # pixels
GLYPH = 27  # pixels of the font's em square
UNASSIGNED = "\U0010fffd"  # no font draws it: shows what a face draws for characters it lacks
FAINTEST = 60  # a glyph whose brightest pixel is below is blank


@dataclass(frozen=True)
class Perturbation:
    """How far an image may be from a clean one; each value is drawn evenly from 0 (or 1) to its bound.

    Attributes:
        rotation: Degrees, both ways.
        scale: The factor is 1 +- scale.
        shear: Of x by y, both ways.
        shift: Pixels.
        blur: Standard deviation in pixels.
        contrast: The least share of the gray range between ink and paper.
        background: Amplitude of a smooth pattern, as a share of 255.
        noise: Standard deviation of pixels, as a share of 255.
        occlusion: Side in pixels of a gray square.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    blur: float = 0.0
    contrast: float = 1.0
    background: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0


@functools.lru_cache(maxsize=4)
def _font(face: Face) -> tuple[ImageFont.FreeTypeFont, Pillow.Image | None]:
    try:
        font = ImageFont.truetype(face.path, GLYPH, index=face.member, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UserError(
            f"{face.path} cannot be read as a font: {error}",
            remedy=f"reinstall the package of {face.family}; see scripts/system/fonts.txt",
        ) from error
    return font, _ink(font, UNASSIGNED)


def _ink(font: ImageFont.FreeTypeFont, character: str) -> Pillow.Image | None:
    """Return the glyph's bounding box, or None for a blank or broken glyph.

    Some fonts carry instructions that FreeType refuses for some glyphs.
    """
    try:
        mask = font.getmask(character, mode="L")
    except OSError:
        return None
    pixels = bytes(mask)
    return Pillow.frombytes("L", mask.size, pixels) if pixels and max(pixels) >= FAINTEST else None


def draw(face: Face, character: str) -> Pillow.Image | None:
    """Return the glyph's ink with a margin of one pixel; None where the face lacks it or draws nothing."""
    font, lacking = _font(face)
    ink = _ink(font, character)
    return None if ink is None or ink == lacking else ImageOps.expand(ink, border=1)


def perturb(glyph: Pillow.Image, bounds: Perturbation, random: np.random.Generator) -> Image:
    """Return the glyph as an image (SIZE, SIZE, 1), ink brighter than paper."""
    numbers = random.random(12).tolist()  # Python's floats leave arrays in float32
    ink: NDArray[np.floating] = np.asarray(_placed(glyph, bounds, numbers[:5]), dtype=np.float32)
    sigma = bounds.blur * numbers[5]
    if sigma > 0.2:  # below, the nearest pixels get less than 1e-5 of it
        ink = _blur(sigma) @ ink @ _blur(sigma)
    contrast = bounds.contrast + (1 - bounds.contrast) * numbers[6]
    paper = (1 - contrast) * numbers[7]
    image = paper + contrast / 255 * ink
    if bounds.background:
        image += bounds.background * numbers[8] * _pattern(random)
    side = round(bounds.occlusion * numbers[9])
    if side:
        row, column = (int(number * (SIZE - side + 1)) for number in numbers[10:])
        image[row : row + side, column : column + side] = paper + contrast * random.random()
    if bounds.noise:
        image += bounds.noise * random.random() * random.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)[..., None]


def _placed(glyph: Pillow.Image, bounds: Perturbation, numbers: list[float]) -> Pillow.Image:
    """Return the glyph rotated, scaled, sheared and shifted about the center by one affine transform."""
    angle, scale, shear, right, down = (2 * number - 1 for number in numbers)
    radians, slant = math.radians(bounds.rotation * angle), bounds.shear * shear
    factor = 1 + bounds.scale * scale
    cosine, sine = math.cos(radians) / factor, math.sin(radians) / factor
    a, b, d, e = cosine, sine + slant * cosine, -sine, cosine - slant * sine
    x, y = SIZE / 2 + bounds.shift * right, SIZE / 2 + bounds.shift * down
    c, f = glyph.width / 2 - a * x - b * y, glyph.height / 2 - d * x - e * y
    return glyph.transform(
        (SIZE, SIZE), Pillow.Transform.AFFINE, (a, b, c, d, e, f), Pillow.Resampling.BILINEAR
    )


def _blur(sigma: float) -> NDArray[np.float32]:
    """Return the symmetric matrix (SIZE, SIZE) that blurs columns; ink beyond the edges is none."""
    weights: NDArray[np.float32] = np.exp(_SQUARED_DISTANCE / (-2 * sigma**2))
    return weights / weights[SIZE // 2].sum()


def _pattern(random: np.random.Generator) -> NDArray[np.float32]:
    """Return a smooth random pattern (SIZE, SIZE) between -1 and 1."""
    return _HATS @ (2 * random.random((4, 4), dtype=np.float32) - 1) @ _HATS.T


_SQUARED_DISTANCE = np.square(np.subtract.outer(np.arange(SIZE), np.arange(SIZE)), dtype=np.float32)
_HATS = np.maximum(  # linear interpolation between four knots
    0, 1 - np.abs(np.subtract.outer(np.linspace(0, 3, SIZE), np.arange(4)))
).astype(np.float32)
