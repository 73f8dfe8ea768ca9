"""Agreement of few dims with the full vector, against its definition."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.agreement import agreement
from mrl_experiments.reductions.linear_map import LinearMap
from mrl_experiments.reductions.svd import SVD

DIMS = (4, 8, 32)


def embeddings(count, seed=0, width=32):
    features = np.random.default_rng(seed).normal(size=(count, width)) / np.arange(1, width + 1) ** 0.5
    return Embeddings(features.astype(np.float32), None, None, {"split": f"of seed {seed}"})


def measured(queries, database, dims=DIMS, k=(1, 10), ranked=20, max_queries=1000):
    found = agreement(queries, database, dims, k=k, ranked=ranked, max_queries=max_queries)
    return {(one.dim, one.metric): one.value for one in found}


def cosines(queries, database, dim):
    first, second = (part[:, :dim].astype(np.float64) for part in (queries, database))
    norms = [np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second)]
    return (first / norms[0]) @ (second / norms[1]).T


def expected(queries, database, dim, k, ranked, same):
    full, few = cosines(queries, database, queries.shape[1]), cosines(queries, database, dim)
    if same:
        for part in (full, few):
            np.fill_diagonal(part, -2)
    true, found = (np.argsort(-part, axis=1) for part in (full, few))
    overlap = [len({*ours[:k]} & {*theirs[:k]}) / k for ours, theirs in zip(found, true, strict=True)]
    order = [spearmanr(few[row, near[:ranked]], full[row, near[:ranked]])[0] for row, near in enumerate(true)]
    return np.mean(overlap), np.mean(order)


@pytest.mark.parametrize("same", [False, True])
def test_values_are_those_of_the_definition(same):
    database = embeddings(300)
    queries = database if same else embeddings(40, seed=1)
    found = measured(queries, None if same else database)
    for dim in DIMS:
        for k in (1, 10):
            overlap, order = expected(queries.features, database.features, dim, k, 20, same)
            assert found[dim, f"overlap@{k}"] == pytest.approx(overlap, abs=1e-9)
        assert found[dim, "rank_correlation"] == pytest.approx(order, abs=1e-5)
    assert found[32, "overlap@10"] == found[32, "rank_correlation"] == 1 > found[8, "overlap@10"]
    assert found[8, "queries"] == len(queries)


def test_some_queries_of_the_base_do_not_meet_themselves():
    whole = embeddings(300)
    found = measured(whole, whole, max_queries=50)
    rows = np.linspace(0, 299, 50).astype(int)
    full, few = (cosines(whole.features[rows], whole.features, dim) for dim in (32, 8))
    for part in (full, few):
        part[np.arange(50), rows] = -2
    assert found[8, "overlap@1"] == pytest.approx((full.argmax(axis=1) == few.argmax(axis=1)).mean())
    assert found[8, "queries"] == 50


def test_reductions_are_compared_with_the_vectors_before_them():
    """A rotation keeps all at full width; what a map loses counts, too."""
    queries, database = embeddings(40, seed=1), embeddings(300)
    rotation = SVD(1).fit(database, 0)
    found = measured(rotation.apply(queries), rotation.apply(database))
    assert found[32, "overlap@10"] == 1 and found[32, "rank_correlation"] > 0.999
    losing = LinearMap(np.eye(32, dtype=np.float32)[:, :6], "six", keeps_heads=False)
    lost = measured(losing.apply(queries), losing.apply(database), dims=(6,))
    assert lost == pytest.approx(measured(queries, database, dims=(6,)))


def test_equally_near_neighbours_count_whichever_are_found():
    vectors = np.repeat(np.eye(4, 8, dtype=np.float32), 25, axis=0)
    copies = Embeddings(vectors, None, None, {})
    found = measured(copies, Embeddings(vectors[::-1].copy(), None, None, {}), dims=(4, 8), k=(10,))
    assert found[4, "overlap@10"] == 1 and found[4, "rank_correlation"] == 0


def test_more_neighbours_than_there_are_are_refused():
    with pytest.raises(UserError, match="40 neighbours of 39 other"):
        measured(embeddings(40), None, k=(40,))
