"""The notebooks run on a run of one's own, and say what training said."""

import json
from pathlib import Path

import pytest
from commands import ROOT, TINY, run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path):
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_one_model_every_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    for script, *options in (("train.py", *TINY, "run_name=mine"), ("embed.py", "run=mine")):
        done = run(script, *options, f"root={tmp_path}")
        assert done.returncode == 0, done.stderr
    cells = json.loads((ROOT / "notebooks" / "one_model_every_size.ipynb").read_text())["cells"]
    names: dict = {}
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        exec(source, names)
        if "OUTPUTS" in source.partition("\n")[0]:
            names |= {"OUTPUTS": Path(tmp_path), "RUN": "mine", "DATA": "digits"}
    trained = json.loads((tmp_path / "runs" / "mine" / "finished.json").read_text())["validation"]
    wanted = {int(dim): value["top1"] for dim, value in trained.items()}
    assert names["of_heads"] == pytest.approx(wanted, abs=0.02)  # a CPU that can trains in bfloat16
    assert set(names["answers"].dims) <= set(names["dims"])
    printed = capsys.readouterr().out
    assert printed.count(f"precision@10 {names['precision']:.1%}") == 2  # few features lose nothing on digits
