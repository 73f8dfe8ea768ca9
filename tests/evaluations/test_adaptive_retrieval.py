import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mrl_experiments.adaptive.retrieval.families import wider_families
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.adaptive_retrieval import adaptive_retrieval
from mrl_experiments.evaluations.auto_retrieval import auto_retrieval
from mrl_experiments.evaluations.funnel import funnel, funnel_stages

DIMS = (4, 8, 16, 32)
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(20, 32)) * np.arange(1, 33) ** -0.5


def embeddings(count, dims=DIMS):
    labels = RNG.integers(0, 20, count)
    noise = RNG.normal(size=(count, 32)) * np.arange(1, 33) ** -0.5
    features = (CENTRES[labels] + 0.8 * noise).astype(np.float32)
    return Embeddings(features, labels, None, {"dims": list(dims)})


DATABASE, QUERIES = embeddings(600), embeddings(50)
FLAT = {"flat": partial(IndexSpec, codes="Flat")}
COMMON = {"k": 10, "max_queries": 50, "timed": 5}
PAIRS = {"shortlist": 40, "lengths": [20, 40, 600], "lengths_dim": 8}


def by_key(rows):
    return {(row.dim, str(row.setting), row.metric): row.value for row in rows}


def brute_force(pairs):
    """Rank the whole database at the first size, the list that is kept at the second, ...; return mAP@10."""
    precisions = []
    for query, label in zip(QUERIES.features, QUERIES.labels, strict=True):
        left = np.arange(len(DATABASE))
        for dim, keep in pairs:
            part = DATABASE.features[left, :dim]
            cosine = part @ query[:dim] / np.linalg.norm(part, axis=1)
            left = left[np.argsort(-cosine)][:keep]
        right = DATABASE.labels[left] == label
        precisions.append(sum(right[: i + 1].mean() for i in range(10) if right[i]) / 10)
    return np.mean(precisions)


def test_all_pairs_are_measured_and_agree_with_brute_force():
    rows = by_key(adaptive_retrieval(QUERIES, DATABASE, DIMS, indexes=FLAT, **COMMON, **PAIRS))
    for dim in DIMS:
        for size in DIMS:
            key = (dim, f"index=flat rerank={size} shortlist={10 if size == dim else 40}", "mAP@10")
            assert (key in rows) == (size >= dim)
            if size >= dim:
                stages = [(dim, 40), (size, 10)] if size > dim else [(dim, 10)]
                assert rows[key] == pytest.approx(brute_force(stages), abs=2e-3)
    assert rows[8, "index=flat rerank=32 shortlist=600", "mAP@10"] == pytest.approx(
        rows[32, "index=flat rerank=32 shortlist=10", "mAP@10"]
    )


def test_costs_are_those_of_the_formula():
    rows = by_key(adaptive_retrieval(QUERIES, DATABASE, DIMS, indexes=FLAT, **COMMON, **PAIRS))
    assert rows[8, "index=flat rerank=32 shortlist=40", "macs"] == 600 * 8 + 40 * 32
    assert rows[8, "index=flat", "index_bytes"] == pytest.approx(600 * 8 * 4, rel=0.02)
    for metric in (
        "latency_ms",
        "single_latency_ms",
        "latency_ms_all_threads",
        "single_latency_ms_all_threads",
    ):
        assert 0 < rows[8, "index=flat rerank=32 shortlist=40", metric] < 1000


def test_every_index_is_measured():
    indexes = FLAT | {"ivf": partial(IndexSpec, codes="IVF8,SQ8", effort="nprobe=8")}
    rows = by_key(adaptive_retrieval(QUERIES, DATABASE, DIMS, indexes=indexes, **COMMON, **PAIRS))
    settings = "index={} rerank=32 shortlist=40"
    assert rows[8, settings.format("ivf"), "mAP@10"] == pytest.approx(
        rows[8, settings.format("flat"), "mAP@10"], abs=0.01
    )


def test_a_run_with_one_size_is_measured_at_the_usual_halvings():
    rows = by_key(
        adaptive_retrieval(embeddings(50, (32,)), DATABASE, (8, 12, 16, 32), indexes=FLAT, **COMMON, **PAIRS)
    )
    assert {dim for dim, _, _ in rows} == {8, 16, 32}


@pytest.mark.parametrize(
    "sizes, lengths, stages",
    [
        (
            (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
            (200, 100, 50, 25, 10),
            [(8, 200), (16, 100), (32, 50), (64, 25), (128, 10), (2048, 10)],  # Table 13, first row
        ),
        ((64, 128, 512), (200, 100, 50, 25, 10), [(64, 200), (128, 100), (512, 10)]),
        ((8, 16, 512), (100, 20, 5), [(8, 100), (16, 20), (512, 10)]),
    ],
)
def test_funnel_stages_are_the_papers(sizes, lengths, stages):
    assert funnel_stages(sizes, lengths, 10) == stages


def test_funnels_agree_with_brute_force():
    rows = by_key(funnel(QUERIES, DATABASE, DIMS, indexes=FLAT, cascades=[[100, 30, 15]], **COMMON))
    key = (4, "index=flat stages=4:100>8:30>16:15>32:10", "mAP@10")
    assert rows[key] == pytest.approx(brute_force([(4, 100), (8, 30), (16, 15), (32, 10)]), abs=2e-3)
    assert {dim for dim, _, _ in rows} == {4, 8}


def test_auto_reports_the_queries_it_was_not_tuned_on():
    rows = list(auto_retrieval(QUERIES, DATABASE, DIMS, k=10, max_loss=0.2, max_latency=None, max_queries=50))
    values = {row.metric: row.value for row in rows}
    assert str(rows[0].setting).startswith("index=auto codes=")
    assert values["mAP@10_lost"] < 0.2
    assert values["latency_ms"] > 0 and values["latency_ratio"] > 0


def test_auto_without_labels_keeps_the_neighbours_of_exact_search():
    queries, database = (replace(part, labels=None) for part in (QUERIES, DATABASE))
    options = {"k": 10, "max_loss": 0.2, "max_latency": None, "max_queries": 50}
    for asked in (queries, database):  # the second meets itself
        values = {row.metric: row.value for row in auto_retrieval(asked, database, DIMS, **options)}
        assert values["recall@10"] == pytest.approx(1 - values["recall@10_lost"])
        assert values["recall@10_lost"] < 0.3
    with pytest.raises(UserError, match="has no labels"):
        list(funnel(queries, database, DIMS, indexes=FLAT, cascades=[[20]], **COMMON))
    with pytest.raises(UserError, match="has no labels"):
        list(funnel(QUERIES, database, DIMS, indexes=FLAT, cascades=[[20]], **COMMON))


def test_auto_says_which_loss_admits_more_than_exact_search(monkeypatch, capsys):
    """Of vectors whose few dims tell nothing."""
    exact_alone = staticmethod(lambda *given: wider_families(*given)[-1:])
    monkeypatch.setattr("mrl_experiments.evaluations.auto_retrieval.wider_families", exact_alone)
    vectors = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    database = Embeddings(vectors, None, None, {})
    options = {"k": 10, "max_loss": 0.0, "max_latency": None, "max_queries": 40}
    rows = list(auto_retrieval(Embeddings(vectors[:40] + 1, None), database, (8, 16, 32, 64), **options))
    assert rows[0].dim == 64 and "codes=Flat" in str(rows[0].setting)
    told = capsys.readouterr().out
    said = re.search(r"only exact search keeps max_loss=0 with 95% .* evaluation\.max_loss=(0\.\d+) ", told)
    options["max_loss"] = float(said[1])
    list(auto_retrieval(Embeddings(vectors[:40] + 1, None), database, (8, 16, 32, 64), **options))
    assert "only exact" not in capsys.readouterr().out


@pytest.mark.parametrize("database", [None, embeddings(5)])
def test_a_missing_or_tiny_database_is_refused(database):
    with pytest.raises(UserError, match="10 neighbours"):
        list(funnel(QUERIES, database, DIMS, indexes=FLAT, cascades=[[20]], **COMMON))


def test_one_size_alone_is_refused():
    with pytest.raises(UserError, match="nothing to re-rank"):
        list(funnel(QUERIES, DATABASE, [32], indexes=FLAT, cascades=[[20]], **COMMON))
    with pytest.raises(UserError, match="at least three nested dims"):
        list(funnel(QUERIES, DATABASE, [8, 32], indexes=FLAT, cascades=[[20]], **COMMON))


def test_few_vectors_a_list_are_one_line_of_ours_and_none_of_faiss(capfd):
    codes = {"lists": "IVF64,Flat", "products": "IVF64,PQ4x4fsr", "sums": "IVF64,SQ8"}
    indexes = {name: partial(IndexSpec, codes=code, effort="nprobe=8") for name, code in codes.items()}
    coarse = {"coarse": partial(IndexSpec, codes="IVF64,Flat", coarse_dim=4)}
    list(adaptive_retrieval(QUERIES, DATABASE, DIMS, indexes=indexes | coarse, **COMMON, **PAIRS))
    said = capfd.readouterr()
    assert said.err == ""
    for name in indexes | coarse:
        assert said.out.count(f"index={name}: 64 lists for 600 vectors; FAISS advises 2,496 or more") == 1
