"""Inner product and L2 beside cosine, against their definitions."""

import numpy as np
import pytest
from composing import composed

from mrl_experiments.construct import construct
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.names import SIMILARITIES
from mrl_experiments.search import neighbour_cache
from mrl_experiments.search.neighbours import nearest, similarities_of

RNG = np.random.default_rng(0)


def vectors(count, width=24, scale=1.0):
    """Return vectors of very different norms around a mean that is not zero."""
    norms = np.random.default_rng(count).uniform(0.2, 5, (count, 1))
    return (scale * norms * (RNG.standard_normal((count, width)) + 0.5)).astype(np.float32)


def score(similarity, queries, database, dim):
    """Return (Q, N), larger is nearer."""
    q, x = queries[:, :dim].astype(np.float64), database[:, :dim].astype(np.float64)
    if similarity == "l2":
        return -np.square(q[:, None] - x).sum(axis=2)
    if similarity == "inner_product":
        return q @ x.T
    return (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("scale", [1.0, 1e18])  # whose squares are beyond float32
def test_neighbours_are_those_of_the_definition(similarity, scale):
    queries, database = vectors(60, scale=scale), vectors(900, scale=scale)
    queries[3] = database[7]
    for dim, found in nearest(queries, database, [3, 8, 24], 9, similarity=similarity).items():
        all_scores = score(similarity, queries, database, dim)
        best = -np.sort(-all_scores, axis=1)[:, :9]
        ours = np.take_along_axis(all_scores, found.positions, axis=1)
        tolerance = 1e-5 * np.abs(all_scores).max(axis=1, keepdims=True)
        assert (np.abs(ours - best) <= tolerance).all()
        again = similarities_of(queries, database, found.positions, dim, similarity)
        np.testing.assert_allclose(found.similarities, again, atol=2e-6 * np.abs(again).max())
        assert (np.diff(found.similarities, axis=1) <= 0).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_all_are_alike_for_unit_vectors(similarity):
    x = vectors(200)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found, cosine = (nearest(x[:20], x, [24], 5, similarity=each)[24] for each in (similarity, "cosine"))
    np.testing.assert_array_equal(found.positions, cosine.positions)
    less = 1 if similarity == "l2" else 0
    np.testing.assert_allclose(found.similarities, cosine.similarities - less, atol=1e-6)


def embeddings(x, y, **meta):
    return Embeddings(x, y, None, {"dims": [x.shape[1]], **meta})


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_evaluations_count_what_the_definition_finds(similarity):
    queries, database = vectors(50), vectors(400)
    labels, others = RNG.integers(0, 4, 50), RNG.integers(0, 4, 400)
    for name in ("knn", "retrieval"):
        option = f"evaluation.similarity={similarity}"
        run = construct(composed("evaluate", f"evaluation={name}", option, "evaluation.k=[1]").evaluation)
        rows = [*run(embeddings(queries, labels), embeddings(database, others), [8])]
        (top1,) = [row for row in rows if row.metric == "top1"]
        nearest_label = others[score(similarity, queries, database, 8).argmax(axis=1)]
        assert top1.value == pytest.approx((nearest_label == labels).mean())
        said = {row.setting.get("similarity") for row in rows}
        assert said == {None if similarity == "cosine" else similarity}


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_agreement_is_overlap_with_the_whole_vectors_by_the_same_similarity(similarity):
    x = vectors(300)
    options = [f"evaluation.similarity={similarity}", "evaluation.k=[5]", "evaluation.ranked=50"]
    run = construct(composed("evaluate", "evaluation=agreement", *options).evaluation)
    rows = {(row.dim, row.metric): row.value for row in run(embeddings(x, np.arange(300)), None, [8, 24])}
    sets = []
    for dim in (8, 24):
        scores = score(similarity, x, x, dim)
        np.fill_diagonal(scores, -np.inf)
        sets.append(np.argsort(-scores, axis=1)[:, :5])
    overlap = np.mean([len({*ours} & {*theirs}) / 5 for ours, theirs in zip(*sets, strict=True)])
    assert rows[8, "overlap@5"] == pytest.approx(overlap, abs=2e-3)
    assert rows[24, "overlap@5"] == 1 and rows[24, "rank_correlation"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_judged_documents_are_ranked_by_it(similarity, tmp_path):
    queries, database = vectors(30), vectors(80)
    near = score(similarity, queries, database, 24).argmax(axis=1)
    (tmp_path / "qrels.tsv").write_text("".join(f"q{row}\td{d}\t1\n" for row, d in enumerate(near)))
    parts = [
        Embeddings(x, np.full(len(x), -1), None, {"dims": [24], "labels": False}, ids=ids)
        for x, ids in (
            (queries, np.array([f"q{row}" for row in range(30)])),
            (database, np.array([f"d{row}" for row in range(80)])),
        )
    ]
    options = [f"evaluation.similarity={similarity}", f"evaluation.qrels={tmp_path / 'qrels.tsv'}"]
    run = construct(composed("evaluate", "evaluation=ir", "evaluation.k=[10]", *options).evaluation)
    rows = {row.metric: row.value for row in run(*parts, [24])}
    assert rows["nDCG@10"] == 1


def test_kept_neighbours_of_one_similarity_are_not_those_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbour_cache, "WORTH", 0)
    x = vectors(100)
    part = Embeddings(x, np.arange(100), None, {"dims": [24]}, folder=tmp_path)
    found = [neighbour_cache.neighbours(part, part, [24], 3, each)[24].positions for each in SIMILARITIES * 2]
    for first, second in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])
