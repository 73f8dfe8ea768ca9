"""What requests bring, texts and pictures as data URLs, as a run's model reads it; nothing is fetched."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from mrl_experiments.data.images.read_image import read_bytes
from mrl_experiments.errors import UserError
from mrl_experiments.loaded.inputs import ImageInputs, ImageOrTextInputs, Inputs, TextInputs
from mrl_experiments.serve.refused import Refused

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # what browsers show; of strangers no rarer decoder is run
DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
URL = re.compile(r"(?:https?|file|ftp)://\S*", re.IGNORECASE)
TOKENS = "token ids are not taken: their vocabulary is another's; send the texts themselves"
Kind = Literal["text", "image"]


class TextInput(BaseModel):
    """A text, whatever it looks like."""

    model_config = ConfigDict(extra="forbid")
    text: str


class ImageInput(BaseModel):
    """A picture as a data URL: data:image/png;base64,..."""

    model_config = ConfigDict(extra="forbid")
    image: str


@dataclass(frozen=True)
class Given:
    """One input as a request has it.

    Attributes:
        value: The text or the data URL.
        kind: What it is, None where that is to be seen from it.
    """

    value: str
    kind: Kind | None = None


@dataclass(frozen=True)
class Read:
    """One input as a model reads it: a text, or a prepared image (C, size, size).

    Attributes:
        item: The text or the image.
        kind: What it is.
        tokens: How many a text has.
        pixels: How many a picture had.
    """

    item: Any
    kind: Kind
    tokens: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class Limits:
    """What requests may bring.

    Attributes:
        inputs: How many texts and pictures.
        pixels: Of a picture.
        request_pixels: Of all pictures of a request.
        characters: Of a text.
        results: Neighbours in an answer, and candidates at a stage of a search.
    """

    inputs: int
    pixels: int
    request_pixels: int
    characters: int
    results: int


def parsed(value: Any) -> list[Given]:
    """Return the inputs of a request.

    Raises:
        ValueError: If they are none.
    """
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise ValueError("at least one input is expected")
    return [_parsed(one) for one in listed]


def _parsed(value: Any) -> Given:
    if isinstance(value, str):
        return Given(_utf8(value))
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind in ("text", "image") and isinstance(content, str):
            return Given(_utf8(content), kind)
    if isinstance(value, int) or (isinstance(value, list) and value and isinstance(value[0], int)):
        raise ValueError(TOKENS)
    raise ValueError(
        'a text, a data URL, {"text": ...} or {"image": "data:image/png;base64,..."} is expected'
    )


def _utf8(value: str) -> str:
    """Return a string that is one of Unicode; JSON can write halves of a character alone."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text with half a character (a lone surrogate)") from error
    return value


Dims = Annotated[
    int | None, Field(ge=1, lt=2**63, strict=True, description="how many of the first features are used")
]
OneInput = str | TextInput | ImageInput
GivenInputs = Annotated[
    list[Given], PlainValidator(parsed, json_schema_input_type=OneInput | list[OneInput])
]  # what a request has as inputs


def kinds(inputs: Inputs) -> list[Kind]:
    """Return what a run reads of what can be sent."""
    if isinstance(inputs, ImageOrTextInputs):
        return ["text", "image"]
    return (
        ["text"] if isinstance(inputs, TextInputs) else ["image"] if isinstance(inputs, ImageInputs) else []
    )


def read_all(inputs: Inputs, given: Sequence[Given], limits: Limits) -> list[Read]:
    """Return inputs as a run reads them.

    Raises:
        Refused: For those of another kind, URLs, what is too large, and what is no picture.
    """
    known, found, pixels = kinds(inputs), [], 0
    for number, one in enumerate(given):
        found.append(_read(inputs, one, number, known, limits))
        pixels += found[-1].pixels
        if pixels > limits.request_pixels:  # before the next is decoded
            told = f"input {number}: with this one there are {pixels:,} pixels in a request"
            raise Refused(f"{told}, more than {limits.request_pixels:,}", param="input")
    return found


def _read(inputs: Inputs, given: Given, number: int, known: Sequence[Kind], limits: Limits) -> Read:
    try:
        kind = given.kind or _kind(given.value, known)
        if kind not in known:
            raise ValueError(
                f"a{'n image' if kind == 'image' else ' text'}, and this run reads {known[0]}s alone"
            )
        if kind == "image":
            return _picture(inputs.images if isinstance(inputs, ImageOrTextInputs) else inputs, given, limits)
        return _text(inputs.texts if isinstance(inputs, ImageOrTextInputs) else inputs, given, limits)
    except ValueError as error:
        raise Refused(f"input {number}: {error}", param="input") from error
    except UserError as error:
        raise Refused(f"input {number}: {error.problem}", param="input") from error


def _kind(value: str, known: Sequence[Kind]) -> Kind:
    """Return what a string is; of a run that reads texts alone, each is a text."""
    if "image" in known:
        if DATA_URL.match(value):
            return "image"
        if URL.fullmatch(value.strip()):
            raise ValueError(
                "a URL, and none is fetched: send the picture as data:image/png;base64,..."
                + (', or {"text": ...} to embed the address itself' if "text" in known else "")
            )
    return "text"


def _text(inputs: Any, given: Given, limits: Limits) -> Read:
    assert isinstance(inputs, TextInputs)
    if not given.value:
        raise ValueError("an empty text")
    if len(given.value) > limits.characters:
        raise ValueError(f"{len(given.value):,} characters, more than {limits.characters:,}")
    return Read(given.value, "text", tokens=len(inputs.tokens([given.value])[0]))


def _picture(inputs: Any, given: Given, limits: Limits) -> Read:
    assert isinstance(inputs, ImageInputs)
    if not (start := DATA_URL.match(given.value)):
        raise ValueError(
            "no picture as a data URL, data:image/png;base64,...; nothing else is read or fetched"
        )
    try:
        content = base64.b64decode(given.value[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("its base64 is broken") from error
    pixels = read_bytes(content, "the picture", inputs.channels, formats=FORMATS, pixels=limits.pixels)
    return Read(inputs.prepare([pixels])[0], "image", pixels=pixels.shape[0] * pixels.shape[1])
