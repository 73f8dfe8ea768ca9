"""Draw recall against time from the points that bench_retrieval.py keeps (`rows=`).

    python scripts/draw_retrieval.py results/benchmarks/retrieval.svg "Kanji=kanji.csv" "texts=texts.csv"

For each set, in batches and one query at a time, the settings of a form that no other setting of it beats in
both, and of these what finds at least 80 %. Of nested and of plain indexes, and of opponents, the two that
are fastest at 95 %.
"""

import sys
from pathlib import Path

import pandas as pd

from mrl_experiments.vega import VegaLite, pictures

LEAST, TARGET, FORMS = 0.8, 0.95, 2
ASKED = {"batch_ms": "in batches", "single_ms": "one at a time"}
KINDS = {"nested": "AdaptiveIndex, nested", "plain": "AdaptiveIndex, plain", "opponent": "others"}


def front(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of one form that are faster than all that find as much."""
    ordered = points.sort_values("ms", ascending=True)
    return ordered[ordered.recall > ordered.recall.cummax().shift(fill_value=-1.0)]


def curves(path: Path, name: str) -> pd.DataFrame:
    """Return the fronts of a file of points."""
    every = pd.read_csv(path)
    parts = []
    for column, asked in ASKED.items():
        points = every.assign(ms=every[column], asked=asked, set=name)
        enough = points[points.recall >= TARGET].groupby(["kind", "form"]).ms.min().sort_values()
        chosen = enough.groupby("kind").head(FORMS).reset_index()
        for form in chosen.form[chosen.form != "Flat"]:
            parts.append(front(points[points.form == form]))
    found = pd.concat(parts)
    return found[found.recall >= LEAST]


def main() -> None:
    out, *named = sys.argv[1:]
    parts = [curves(Path(path), name) for name, _, path in (one.partition("=") for one in named)]
    data = pd.concat(parts)[["set", "asked", "form", "kind", "recall", "ms"]]
    data["kind"] = data.kind.map(KINDS)
    data["recall"] *= 100
    x = {
        "field": "ms",
        "type": "quantitative",
        "title": "ms per query",
        "scale": {"type": "log", "nice": False, "padding": 10},
    }
    y = {"field": "recall", "type": "quantitative", "title": "recall@10 [%]", "scale": {"zero": False}}
    encoding = {
        "x": x,
        "y": y,
        "color": {
            "field": "form",
            "type": "nominal",
            "title": None,
            "legend": {"labelLimit": 260},
            "scale": {"scheme": "tableau10"},
        },
        "strokeDash": {"field": "kind", "type": "nominal", "title": None, "legend": {"symbolType": "stroke"}},
    }
    layer = [{"mark": {"type": "line", "point": True, "strokeWidth": 1.5}, "encoding": encoding}]
    layer.append({"mark": {"type": "rule", "color": "#999"}, "encoding": {"y": {"datum": 100 * TARGET}}})
    panels = [
        {
            "title": f"{name}, {asked}",
            "width": 330,
            "height": 250,
            "transform": [{"filter": f"datum.set == {name!r} && datum.asked == {asked!r}"}],
            "layer": layer,
            "resolve": {"scale": {"color": "independent"}},
        }
        for name in data["set"].unique()
        for asked in ASKED.values()
    ]
    drawn = VegaLite(
        data, concat=panels, columns=2, resolve={"scale": {"color": "independent", "strokeDash": "shared"}}
    )
    Path(out).write_bytes(pictures(drawn.spec, ["svg"])["svg"])


if __name__ == "__main__":
    main()
