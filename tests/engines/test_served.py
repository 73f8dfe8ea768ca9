"""evaluation=served: an engine's exact scan finds the same ids; approximate searches get rows beside ours."""

import numpy as np
import pandas as pd
import pytest
from composing import composed

from mrl_experiments.embed import embed
from mrl_experiments.embeddings import load
from mrl_experiments.engines.targets import hand_over
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import evaluate
from mrl_experiments.report.write import write_report
from mrl_experiments.results import read_rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(9, 32))
    for name, count in (("base", 600), ("queries", 40)):
        labels = rng.integers(0, 9, count)
        vectors = (centers[labels] + 0.7 * rng.normal(size=(count, 32))).astype(np.float32)
        np.savez(folder / f"{name}.npz", embeddings=vectors, labels=labels)
    return folder


def measured(files, root, *typed, queries="queries"):
    given = [f"embeddings={files / queries}.npz", f"database={files / 'base.npz'}", f"root={root}"]
    options = ["evaluation.shortlists=[20,50,600]", "evaluation.timed=5", "evaluation.max_queries=20"]
    evaluate(composed("evaluate", "evaluation=served", *given, *options, *typed), "served", "prefix")
    (path,) = root.glob("runs/*/results/served-*.csv")
    rows = [row for row in read_rows(path) if row.metric != "samples"]
    return {(row.setting["index"], row.setting.get("shortlist"), row.metric): row for row in rows}


@pytest.mark.parametrize(
    "target", ["faiss", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lancedb", "milvus"))]
)
def test_exact_scans_agree_and_approximate_ones_get_rows(target, files, tmp_path):
    uri = tmp_path / ("vectors.db" if target == "milvus" else "vectors")
    name = [] if target == "faiss" else ["collection=base"]
    typed = [f"target={target}", f"uri={uri}", *name]
    hand_over(composed("export", f"embeddings={files / 'base.npz'}", "prefix=8", *typed))
    rows = measured(files, tmp_path, *typed)
    exact, ours = f"{target} exact", "exact scan"
    for metric in ("recall@10", "same_ids"):
        assert rows[exact, None, metric].value == rows[ours, None, metric].value == 1
    assert rows[exact, None, "mAP@10"].value == rows[ours, None, "mAP@10"].value
    kind = "ivf" if target == "faiss" else "hnsw"
    codes = "IVF24,Flat" if target == "faiss" else "HNSW32"
    for index in (f"{target} {kind}", f"AdaptiveIndex {codes}"):
        recalls = [rows[index, shortlist, "recall@10"].value for shortlist in (20, 50, 600)]
        assert recalls[0] <= recalls[1] <= recalls[2] and recalls[2] > 0.95, index
        assert rows[index, 50, "latency_ms"].value > 0 and rows[index, 50, "mAP@10"].dim == 8
    rows = measured(files, tmp_path / "itself", *typed, queries="base")  # none is compared with itself
    assert rows[exact, None, "same_ids"].value == 1


@pytest.mark.slow
def test_a_run_is_handed_over_and_asked_by_the_same_words(trained_runs, tmp_path):
    run = trained_runs["digits"]
    where = [f"run={run.name}", f"root={run.root}"]
    embed(composed("embed", *where, "trainer=cpu", "splits=[train,val]"))
    hand_over(composed("export", *where, "target=parquet"))
    table = pd.read_parquet(run.root / "exports" / f"{run.name}_train-parquet")
    assert {"id", "vector", "label", "class_name"} == {*table.columns}
    stored = load(run.embeddings("digits", "train"))
    np.testing.assert_array_equal(np.stack(table["vector"]), stored.features)
    assert table["label"].tolist() == stored.labels.tolist()
    hand_over(composed("export", *where, "target=faiss", "split=digits/train"))
    evaluate(composed("evaluate", *where, "evaluation=served", "target=faiss"), "served", "prefix")
    rows = read_rows(run.results("served", "digits", "prefix"))
    assert {row.value for row in rows if row.metric == "same_ids"} == {1.0}
    assert {row.dim for row in rows if "shortlist" in row.setting} == {12}  # an eighth of 96
    pattern, out = f"{run.folder}/results/served-*.csv", tmp_path / "report"
    write_report([pattern], out, run.folder.parent, {}, [])
    (path,) = (out / "tables").glob("table-served*.csv")
    assert "faiss ivf" in path.read_text() and "AdaptiveIndex" in path.read_text()
    with pytest.raises(UserError, match="no embeddings of digits/test"):
        hand_over(composed("export", *where, "target=faiss", "split=test"))


def test_other_vectors_and_a_missing_collection_are_one_line(files, tmp_path):
    place = tmp_path / "vectors"
    with pytest.raises(UserError, match="target= is not given"):
        measured(files, tmp_path)
    with pytest.raises(UserError, match="is not there"):
        measured(files, tmp_path, "target=faiss", f"uri={place}")
    hand_over(composed("export", f"embeddings={files / 'queries.npz'}", "target=faiss", f"uri={place}"))
    with pytest.raises(UserError, match="holds 40 other vectors of 32 dims"):
        measured(files, tmp_path, "target=faiss", f"uri={place}")
    with pytest.raises(UserError, match="does not search"):
        hand_over(composed("export", f"embeddings={files / 'base.npz'}", "target=parquet", f"uri={place}-p"))
        measured(files, tmp_path, "target=parquet", f"uri={place}-p")
