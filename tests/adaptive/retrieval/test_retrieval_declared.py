import warnings
from dataclasses import replace

import numpy as np
import pytest

from mrl_experiments import AdaptiveIndex
from mrl_experiments.adaptive.retrieval import declared
from mrl_experiments.adaptive.retrieval.families import declared_families
from mrl_experiments.adaptive.retrieval.promise import ShiftWarning
from mrl_experiments.adaptive.retrieval.quality import recall
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.storage import load_index, save_index
from mrl_experiments.adaptive.retrieval.tuning import Tuner
from mrl_experiments.errors import UserError

K, WIDTH, COUNT = 5, 32, 6500
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(60, WIDTH))


def draw(count):
    """Vectors whose first features hold the most."""
    points = CENTRES[RNG.integers(60, size=count)] + RNG.normal(size=(count, WIDTH))
    return (points * np.arange(1, WIDTH + 1) ** -1.5).astype(np.float32)


VECTORS, QUERIES = draw(COUNT), draw(1000)


def share(index, queries=QUERIES, mask=None):
    """The recall of a search, with the promised k; ids are positions."""
    similarity = index.spec.similarity
    exact = exact_neighbours(queries, index.vectors, index.promise.k, similarity, mask)
    return recall(exact)(index.search(queries, mask=mask), np.arange(len(queries))).mean()


@pytest.fixture(autouse=True, scope="module")
def few_families():
    """Only the first of those that scan nested dims, built in no time, which is faster than exact search."""

    def measured(tuner, *given):
        trial = Tuner.measure(tuner, *given)
        return replace(trial, latency=np.inf) if trial.exact else trial  # of so few, a busy machine differs

    with pytest.MonkeyPatch.context() as patch:
        few = lambda *given: (declared_families(*given)[0][:1], declared_families(*given)[1])  # noqa: E731
        patch.setattr(declared, "declared_families", few)
        patch.setattr(declared.Calibration, "measure", measured)
        yield


@pytest.fixture(scope="module")
def built():
    return AdaptiveIndex.build(VECTORS, recall=0.9, k=K, threads=1)


@pytest.fixture
def index(built):
    return replace(built, promise=replace(built.promise, filters={}))


def test_a_recall_alone_builds_an_index_that_keeps_it(index):
    assert not index.spec.exact and len(index.spec.stages) > 1
    assert share(index) >= 0.9
    assert index.search(QUERIES[:3]).ids.shape == (3, K)


def test_every_vector_can_be_found_also_those_that_were_drawn_as_queries(index):
    drawn = index.promise.rows
    assert len(drawn) == COUNT // 10
    assert (index.search(VECTORS[drawn]).ids[:, 0] == drawn).mean() > 0.97


@pytest.mark.parametrize("similarity", ["l2", "inner_product"])
def test_other_similarities_keep_it_too(similarity):
    index = AdaptiveIndex.build(VECTORS, recall=0.9, k=K, similarity=similarity, threads=1)
    assert index.spec.similarity == similarity
    assert share(index) >= 0.9


def test_a_filter_keeps_it(index):
    half = RNG.random(COUNT) < 0.5
    assert share(index, mask=half) >= 0.9
    assert half[index.search(QUERIES, mask=half).ids].all()
    (setting,) = index.promise.filters.values()
    assert setting is None or setting in index.promise.rungs
    few = np.arange(COUNT) < 50  # all of which are compared
    assert share(index, mask=few) == 1.0


@pytest.mark.parametrize("least", [0.3, 0.9])
def test_a_filter_by_what_the_vectors_hold_keeps_it(index, least):
    """For most queries, the lists that are looked into hold few of these."""
    assert share(index, mask=VECTORS[:, 0] > least) >= 0.9


def test_given_queries_promise_for_queries_like_them():
    index = AdaptiveIndex.build(VECTORS, recall=0.9, k=K, queries=draw(600), threads=1)
    assert (index.promise.rows == -1).all() and len(index.promise.queries) == 600
    assert share(index) >= 0.9


def test_given_queries_that_are_rows_are_not_compared_with_themselves(capsys):
    index = AdaptiveIndex.build(VECTORS, recall=0.8, k=K, queries=VECTORS[:400], threads=1)
    assert "400 of 400 queries are vectors of the index" in capsys.readouterr().out
    assert index.promise.rows.tolist() == list(range(400))
    assert share(index) >= 0.8


def test_too_few_vectors_to_draw_from_are_all_compared(capsys):
    index = AdaptiveIndex.build(VECTORS[:2000], recall=0.99, k=K)
    assert index.spec.exact and "too few to draw the 599 queries" in capsys.readouterr().out
    exact = exact_neighbours(QUERIES, VECTORS[:2000], K)
    np.testing.assert_array_equal(index.search(QUERIES).ids, exact.ids)


def test_a_loaded_index_keeps_its_promise(index, tmp_path):
    save_index(index, tmp_path)
    loaded = load_index(tmp_path)
    np.testing.assert_array_equal(loaded.search(QUERIES).ids, index.search(QUERIES).ids)
    assert loaded.promise.recall == 0.9 and loaded.promise.rungs == index.promise.rungs
    half = RNG.random(COUNT) < 0.5
    assert share(loaded, mask=half) >= 0.9


def test_shifted_queries_are_told_once_and_like_ones_never(index):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShiftWarning)
        for _ in range(10):
            index.search(draw(200))
    other = replace(
        index, promise=replace(index.promise, watch=type(index.promise.watch)(index.promise.watch.usual))
    )
    noise = (draw(400) + 3 * RNG.normal(size=(400, WIDTH))).astype(np.float32)
    with pytest.warns(ShiftWarning, match="queries differ .* build with queries="):
        for query in noise:
            other.search(query[None])
    assert "median" in other.promise.watch.shifted
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShiftWarning)
        other.search(noise)


def test_a_change_is_told_until_it_is_tested_anew():
    index = AdaptiveIndex.build(VECTORS, recall=0.9, k=K, threads=1)
    added = draw(700)
    index.add(added, np.arange(COUNT, COUNT + 700))
    with pytest.warns(UserWarning, match="certify"):
        index.search(QUERIES)
    index.delete(np.arange(100))
    index.certify()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = index.search(QUERIES)
    assert (found.ids >= 100).all()
    there = np.arange(COUNT + 700) >= 100
    exact = exact_neighbours(QUERIES, index.vectors, K, keep=there)
    assert recall(exact)(found, np.arange(len(QUERIES))).mean() >= 0.9


def test_a_deleted_id_can_be_given_again_and_others_are_refused(index):
    index = replace(index, promise=None)
    index.delete(np.array([3, 5]))
    assert not np.isin(index.search(VECTORS[3:4], K).ids, [3, 5]).any()
    index.add(VECTORS[3:4], np.array([3]))
    assert index.search(VECTORS[3:4], K).ids[0, 0] == 3
    for gone in ([5], [COUNT + 9], [-1]):
        with pytest.raises(UserError, match=f"1 of 1 ids are not in the index, such as {gone[0]}"):
            index.delete(np.array(gone))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"recall": 1.2}, r"recall=1\.2"),
        ({"recall": 0.0}, r"recall=0\.0"),
        ({"recall": float("nan")}, "recall=nan"),
        ({"recall": 0.9, "k": 0}, "k=0"),
        ({"recall": 0.9, "k": COUNT}, "a k below their number"),
        ({"recall": 0.9, "confidence": 1}, "confidence=1"),
        ({"recall": 0.9, "similarity": "dot"}, "cosine, inner_product, l2"),
        ({"recall": 0.99, "queries": QUERIES[:100]}, r"at least 599 queries(.|\n)*declare recall=0\.9"),
        ({"recall": 0.9, "queries": QUERIES[:, :8]}, "as in the index"),
        ({}, "a spec or a recall"),
    ],
)
def test_what_cannot_be_promised_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        AdaptiveIndex.build(VECTORS, **given)


def test_another_k_and_masks_that_do_not_fit_are_refused(index):
    with pytest.raises(UserError, match="promised for k=5"):
        index.search(QUERIES, 6)
    for mask in (np.ones(3, bool), np.ones(COUNT), np.zeros(COUNT, bool)):
        with pytest.raises(UserError, match="one for each of the ids"):
            index.search(QUERIES, mask=mask)
