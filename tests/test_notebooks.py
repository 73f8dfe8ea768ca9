"""The notebooks run from a fresh clone, and their stored outputs are small and whole."""

import json
from pathlib import Path

import pytest
from commands import ROOT

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
LARGEST = 300_000  # bytes


def code(name):
    cells = json.loads(NOTEBOOKS[name].read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def executed(name, places=None):
    """Run the cells of a notebook; `places` are set after the cell that names where its files are."""
    names: dict = {}
    for source in ("".join(cell["source"]) for cell in code(name)):
        exec(source, names)
        if "OUTPUTS" in source.partition("\n")[0]:
            names |= places
    return names


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_small_and_of_one_run_from_first_cell_to_last(name):
    cells = code(name)
    assert NOTEBOOKS[name].stat().st_size < LARGEST
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not any(one["output_type"] == "error" for one in outputs)
    charts = [one["data"] for one in outputs if any("vegalite" in kind for kind in one.get("data", {}))]
    assert charts and all("image/png" in data for data in charts)  # where nothing draws Vega-Lite


@pytest.mark.slow
def test_what_dims_know(tmp_path, capsys):
    names = executed("what_dims_know", {"OUTPUTS": Path(tmp_path)})
    finished = tmp_path / "runs" / names["RUN"] / "finished.json"
    trained = json.loads(finished.read_text())["validation"]
    wanted = {int(dim): value["top1"] for dim, value in trained.items()}
    assert names["of_heads"] == pytest.approx(wanted, abs=0.02)  # a CPU that can trains in bfloat16
    assert names["of_heads"][2] < names["of_heads"][64] - 0.2  # what the story tells
    printed = capsys.readouterr().out
    assert printed.count(f"precision@10 {names['precision']:.1%}") == 2  # few dims lose nothing on digits


@pytest.mark.slow
def test_shrink_your_embeddings():
    names = executed("shrink_your_embeddings")
    assert names["share"] >= 0.75  # a recall of 0.8 is promised on average over draws
    kept = names["kept"].pivot(index="dims", columns="way", values="kept")
    assert kept.loc[64].tolist() == pytest.approx([100.0] * 3)
    assert (kept.loc[16, ["SVD", "adaptor"]] > kept.loc[16, "prefix"] + 40).all()
    assert (kept.adaptor - kept.SVD).abs().max() < 5  # "the adaptor is not better"


@pytest.mark.slow
def test_cascade():
    names = executed("cascade")
    alone, promised = names["alone"].set_index("dims").accuracy, names["promised"]
    assert alone[2] < 75 and alone[64] > 93
    assert promised["accuracy"] > alone[64] - 3 and promised["dims"] < 40
    assert names["curve"].dims.is_monotonic_increasing
