"""A new evaluation takes two files, its function and its yaml; its rows then have a table in the report."""

import numpy as np
import pytest
from commands import succeed
from sklearn.datasets import load_digits

FUNCTION = """
from mrl_experiments.results import Measurement


def mean_norm(queries, database, dims, *, powers):
    for dim in dims:
        norms = (queries.at(dim) ** 2).sum(axis=1) ** 0.5
        for power in powers:
            yield Measurement(dim, "norm", float((norms**power).mean()), {"power": power})
"""
YAML = """
_target_: mean_norm.mean_norm
_partial_: true
powers: [1, 2]
"""


@pytest.mark.slow
def test_two_files_are_an_evaluation_with_a_table(tmp_path, monkeypatch):
    (tmp_path / "mean_norm.py").write_text(FUNCTION)
    (tmp_path / "conf" / "evaluation").mkdir(parents=True)
    (tmp_path / "conf" / "evaluation" / "mean_norm.yaml").write_text(YAML)
    images, labels = load_digits(return_X_y=True)
    features = images[:100].astype(np.float32)
    np.savez(tmp_path / "queries.npz", embeddings=features, labels=labels[:100])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    vectors = f"{tmp_path}/queries.npz"
    succeed(
        "evaluate.py", f"embeddings={vectors}", f"database={vectors}", "names.dataset=digits",
        "names.dims=[16,64]",
        "evaluation=mean_norm", f"hydra.searchpath=[file://{tmp_path}/conf]", f"root={tmp_path}",
    )  # fmt: skip
    succeed("report.py", f"root={tmp_path}")
    table = tmp_path / "report" / "tables" / "evaluation-mean_norm-digits-test-queries.csv"
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    assert header[:2] == ["Dims", "power"]
    assert [row[:2] for row in rows if row[0] != "40"] == [["16", "1"], ["16", "2"], ["64", "1"], ["64", "2"]]
    (full,) = (float(row[2]) for row in rows if row[:2] == ["64", "1"])
    assert full == pytest.approx(np.linalg.norm(features, axis=1).mean())
    assert "Mean norm" in (tmp_path / "report" / "index.html").read_text()
