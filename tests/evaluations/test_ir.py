"""Judged documents: metrics against their definitions, intervals, and files that are refused."""

import numpy as np
import pytest

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.ir import half_interval, ir
from mrl_experiments.metrics.relevance import read_judgments
from mrl_experiments.reductions.svd import SVD

RNG = np.random.default_rng(0)
DOCUMENTS = RNG.normal(size=(200, 16)).astype(np.float32)
GRADES = {f"q{q}": {f"d{(7 * q + j) % 200}": j % 3 for j in range(1, 5)} for q in range(30)}
OPTIONS = {"first": 10, "k": (5, 20), "resamples": 200, "seed": 0}


def embeddings(features, ids):
    return Embeddings(features.astype(np.float32), None, None, {"split": ids[:1]}, ids=np.array(ids))


BASE = embeddings(DOCUMENTS, [f"d{row}" for row in range(200)])
QUERIES = embeddings(
    np.stack([
        sum(DOCUMENTS[int(d[1:])] * grade for d, grade in one.items()) + 2 * RNG.normal(size=16)
        for one in GRADES.values()
    ]),
    [*GRADES],
)  # fmt: skip


def written(path, grades=GRADES, form="beir"):
    lines = ["query-id\tcorpus-id\tscore"] if form == "beir" else []
    for query, one in grades.items():
        for document, grade in one.items():
            lines.append(
                f"{query}\t{document}\t{grade}" if form == "beir" else f"{query} 0 {document} {grade}"
            )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def measured(qrels, queries=QUERIES, base=BASE, dims=(4, 16), **options):
    found = ir(queries, base, dims, qrels=qrels, **OPTIONS | options)
    return {(one.dim, one.metric): one.value for one in found}


def by_definition(dim, grades=GRADES):
    """nDCG@10, MRR@10, recall@5 and recall@20 of each query."""
    units = [
        part[:, :dim] / np.linalg.norm(part[:, :dim], axis=1, keepdims=True)
        for part in (QUERIES.features, DOCUMENTS)
    ]
    rows = []
    for query, cosines in zip(QUERIES.ids, units[0] @ units[1].T, strict=True):
        order = [f"d{row}" for row in np.argsort(-cosines)]
        gains = [max(0, grades[query].get(document, 0)) for document in order]
        discount = 1 / np.log2(np.arange(2, 12))
        best = sorted((max(0, grade) for grade in grades[query].values()), reverse=True)
        ideal = sum(gain * by for gain, by in zip(best, discount, strict=False))
        ranks = [rank for rank, gain in enumerate(gains[:10], 1) if gain > 0]
        total = sum(gain > 0 for gain in gains)
        recalls = [sum(gain > 0 for gain in gains[:k]) / total for k in (5, 20)]
        rows.append([gains[:10] @ discount / ideal, 1 / ranks[0] if ranks else 0, *recalls])
    return np.array(rows)


@pytest.mark.parametrize("form", ["beir", "trec"])
def test_values_are_those_of_the_definitions(tmp_path, form):
    found = measured(written(tmp_path / "qrels.tsv", form=form))
    full = by_definition(16)
    for dim in (4, 16):
        each = by_definition(dim)
        for column, metric in enumerate(["nDCG@10", "MRR@10", "recall@5", "recall@20"]):
            assert found[dim, metric] == pytest.approx(each[:, column].mean(), abs=1e-6)
            lost = (full - each)[:, column]
            assert found[dim, f"{metric}_lost"] == pytest.approx(lost.mean(), abs=1e-6)
            normal = 1.96 * lost.std() / np.sqrt(len(lost))
            assert found[dim, f"{metric}_lost_ci95"] == pytest.approx(normal, rel=0.25)
    assert found[16, "nDCG@10_lost"] == found[16, "nDCG@10_lost_ci95"] == 0 < found[4, "nDCG@10_lost"]
    assert found[4, "queries"] == 30


def test_pairs_of_the_same_queries_are_told_apart_by_less():
    """The interval of a difference is that of the differences, not of two independent means."""
    one = RNG.normal(size=400)
    other = one + 0.1 * RNG.normal(size=400)
    counts = [np.bincount(RNG.integers(0, 400, 400), minlength=400) for _ in range(300)]
    assert half_interval(one - other, counts) < 0.2 * half_interval(one, counts)


def test_the_full_vectors_are_those_before_a_reduction(tmp_path):
    qrels = written(tmp_path / "qrels.tsv")
    rotation = SVD(1).fit(BASE, 0)
    plain, reduced = measured(qrels), measured(qrels, rotation.apply(QUERIES), rotation.apply(BASE))
    assert reduced[16, "nDCG@10"] == pytest.approx(plain[16, "nDCG@10"], abs=1e-6)
    for found in (plain, reduced):
        assert found[4, "nDCG@10"] + found[4, "nDCG@10_lost"] == pytest.approx(plain[16, "nDCG@10"], abs=1e-6)


def test_equally_near_documents_count_against_the_query(tmp_path):
    copies = embeddings(np.ones((40, 4)), [f"d{row}" for row in range(40)])
    asked = embeddings(np.ones((1, 4)), ["q0"])
    found = measured(written(tmp_path / "q", {"q0": {"d0": 1}}), asked, copies, dims=(4,))
    assert found[4, "MRR@10"] == found[4, "recall@5"] == 0


def test_queries_without_judgments_are_left_out_with_a_line(tmp_path, capsys):
    some = {query: GRADES[query] for query in [*GRADES][:10]}
    found = measured(written(tmp_path / "qrels.tsv", some))
    assert found[16, "nDCG@10"] == pytest.approx(by_definition(16)[:10, 0].mean(), abs=1e-6)
    assert "20 of 30 queries are not judged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q0\td1\t1\nq0\td1\t0\n", "line 2: query q0 and document d1 stand there twice"),
        ("q0\td1\t1\nq0\td2\n", r"line 2: 'q0\\td2'(.|\n)*TREC"),
        ("q0\td1\t0.5\nq1\td1\t0.5\n", r"line 1: (.|\n)*whole number"),
        ("q0\td1\t1\nq1\td1\t0\n", "1 queries have no relevant document, such as q1"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgment"),
        ("", "holds no judgment"),
        ("q0\td1\t1\nq99\td1\t1\n", r"1 of 2 query ids of .* such as q99 \(there: q0"),
        ("q0\td1\t1\nq1\td999\t1\n", r"1 of 2 document ids of .* such as d999"),
    ],
)
def test_judgments_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "qrels.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        measured(str(tmp_path / "qrels.tsv"))


def test_ids_and_judgments_are_asked_for(tmp_path):
    qrels = written(tmp_path / "qrels.tsv")
    for options in ({"qrels": None}, {"qrels": qrels, "base": None}):
        with pytest.raises(UserError, match=r"evaluation\.qrels=(.|\n)*agreement"):
            measured(**options)
    with pytest.raises(UserError, match=r"the document embeddings have no ids(.|\n)*x\.ids\.txt"):
        measured(qrels, base=Embeddings(DOCUMENTS, None, None, {}))
    twice = embeddings(DOCUMENTS, ["d0", *BASE.ids[:-1]])
    with pytest.raises(UserError, match="document id d0 stands there 2 times"):
        measured(qrels, base=twice)
    with pytest.raises(UserError, match="is no file"):
        read_judgments(tmp_path / "none.tsv")
