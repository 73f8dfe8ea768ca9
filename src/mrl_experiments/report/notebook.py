"""Charts in a notebook."""

import base64
from typing import Any

import pandas as pd
import vl_convert

from mrl_experiments.report.write import png

MIME = "application/vnd.vegalite.v5+json"  # which JupyterLab and VS Code draw without a network
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a8568c", "#b8860b"]  # Okabe and Ito's


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
        picture = png(vl_convert.vegalite_to_svg(self.spec))
        return {MIME: self.spec, "image/png": base64.b64encode(picture).decode()}
