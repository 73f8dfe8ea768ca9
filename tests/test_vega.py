"""A chart in a notebook: the specification for those that draw it, a picture for the others."""

import base64
import io
import json

import pandas as pd
from PIL import Image

from mrl_experiments.line_chart import DIMS, Line, line_chart
from mrl_experiments.metric_names import metric
from mrl_experiments.vega import MIME, VegaLite


def test_a_chart_is_shown_as_vega_lite_and_as_a_picture():
    field = {"type": "quantitative"}
    encoding = {"x": {"field": "dims", **field}, "y": {"field": "right", **field}}
    frame = pd.DataFrame({"dims": [2, 4], "right": [50.0, 90.0]})
    shown = VegaLite(frame, width=200, height=100, mark="line", encoding=encoding)._repr_mimebundle_()
    assert json.loads(json.dumps(shown[MIME]))["data"]["values"][1] == {"dims": 4, "right": 90.0}
    picture = Image.open(io.BytesIO(base64.b64decode(shown["image/png"])))
    assert picture.width > 2 * 200 and len(picture.convert("RGB").getcolors()) > 2  # of twice the pixels


def test_the_axis_of_a_share_ends_at_100_whatever_the_deviation():
    look = Line("MRL", "circle", "#000", "#fff")
    shares = pd.DataFrame({"x": [8, 16], "dim": [8, 16], "y": [90.0, 99.9]})
    shares = shares.assign(name="mrl", look=look, interpolated=False, paper=False, joined=True)
    chart = line_chart(shares.assign(low=[89.0, 99.0], high=[91.0, 100.8]), DIMS, metric("top1"), "", "")
    assert chart["encoding"]["y"]["scale"]["domain"][1] == 100
    assert [point["high"] for point in chart["data"]["values"]] == [91, 100]
