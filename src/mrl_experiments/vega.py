"""Vega-Lite without a browser or a network: as pictures, as the script of a page, in a notebook."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd
import vl_convert
from PIL import Image

MIME = "application/vnd.vegalite.v5+json"  # which JupyterLab and VS Code draw without a network
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a8568c", "#b8860b"]  # Okabe and Ito's
FORMS = ("png", "svg", "pdf")
V8_NEEDS = 70 << 30  # bytes of addresses, nearly all of them never used: vl-convert aborts without them


def pictures(spec: Mapping[str, Any], forms: Sequence[str] = FORMS) -> dict[str, bytes]:
    """Return the bytes of a specification's picture in each form, some of FORMS.

    Example:
        >>> dot = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x"}}}
        >>> pictures(dot, ["svg"])["svg"][:4]
        b'<svg'
    """
    svg = vl_convert.vegalite_to_svg(dict(spec)) if forms else ""
    makers: dict[str, Callable[[str], bytes]] = {"png": _png, "svg": str.encode, "pdf": vl_convert.svg_to_pdf}
    return {form: makers[form](svg) for form in forms}


def _png(svg: str) -> bytes:
    """Return a picture of at most 128 colours, which takes a third of the bytes."""
    picture = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=2)))
    file = io.BytesIO()
    picture.convert("RGB").quantize(128).save(file, "png", optimize=True)
    return file.getvalue()


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;"))


class VegaLite:
    """A Vega-Lite specification that a notebook draws: interactive where it can be, else as a picture.

    Args:
        data: A row for each point; None if parts of the specification have data of their own.
        spec: Everything else: `mark`, `encoding`, `layer`, `params`, ...
    """

    def __init__(self, data: pd.DataFrame | None = None, **spec: Any) -> None:
        given = {} if data is None else {"data": {"values": data.to_dict("records")}}
        look = {"view": {"stroke": None}, "title": {"anchor": "start"}, "range": {"category": COLOURS}}
        self.spec: dict[str, Any] = {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "background": "white",
            "config": {"font": "DejaVu Sans, sans-serif", **look},
            **given,
            **spec,
        }

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: self.spec, "image/png": base64.b64encode(pictures(self.spec, ["png"])["png"]).decode()}
