"""A chart in a notebook: the specification for those that draw it, a picture for the others."""

import base64
import io
import json

import pandas as pd
from PIL import Image

from mrl_experiments.vega import MIME, VegaLite


def test_a_chart_is_shown_as_vega_lite_and_as_a_picture():
    field = {"type": "quantitative"}
    encoding = {"x": {"field": "dims", **field}, "y": {"field": "right", **field}}
    frame = pd.DataFrame({"dims": [2, 4], "right": [50.0, 90.0]})
    shown = VegaLite(frame, width=200, height=100, mark="line", encoding=encoding)._repr_mimebundle_()
    assert json.loads(json.dumps(shown[MIME]))["data"]["values"][1] == {"dims": 4, "right": 90.0}
    picture = Image.open(io.BytesIO(base64.b64decode(shown["image/png"])))
    assert picture.width > 2 * 200 and len(picture.convert("RGB").getcolors()) > 2  # of twice the pixels
