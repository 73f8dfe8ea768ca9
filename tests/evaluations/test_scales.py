"""Results do not depend on the scale of the embeddings; logits beyond float32 are refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.adaptive_classification import adaptive_classification
from mrl_experiments.evaluations.class_means import class_sums
from mrl_experiments.evaluations.cosine_span import cosine_span
from mrl_experiments.evaluations.cross_modal import cross_modal
from mrl_experiments.evaluations.few_shot import few_shot
from mrl_experiments.evaluations.funnel import funnel
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.evaluations.linear import linear
from mrl_experiments.evaluations.neighbours import nearest
from mrl_experiments.evaluations.probe import lbfgs, probe
from mrl_experiments.evaluations.retrieval import retrieval
from mrl_experiments.evaluations.stream import stream
from mrl_experiments.evaluations.superclass import superclass
from mrl_experiments.evaluations.zero_shot import zero_shot
from mrl_experiments.heads import Heads
from mrl_experiments.reductions.svd import SVD

DIMS, WIDTH = (4, 8, 16), 16
FLAT = {"flat": partial(IndexSpec, codes="Flat")}
EVALUATIONS = {
    "knn": partial(knn, k=[1, 5]),
    "retrieval": partial(retrieval, k=[3]),
    "funnel": partial(funnel, indexes=FLAT, k=3, cascades=[[20, 10]], max_queries=40, timed=1),
    "few_shot": partial(few_shot, shots=[1, 3], ways=None, draws=2, seed=0),
    "probe": partial(probe, solver=partial(lbfgs, iterations=10, l2=1e-3), seed=0),
    "stream": partial(stream, imbalance=None, head=3, seed=0),
    "zero_shot": zero_shot,
    "cosine_span": cosine_span,
    "cross_modal": partial(cross_modal, k=[1, 5]),
}
ANY_ROW = ("knn", "retrieval", "funnel", "zero_shot", "cosine_span", "cross_modal")  # what compares cosines


def embeddings(seed, count):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(6), random.integers(0, 6, count - 6)])
    features = 2 * np.eye(6, WIDTH)[labels] + random.normal(size=(count, WIDTH))
    return Embeddings(features.astype(np.float32), labels, None, {"dims": list(DIMS)})


QUERIES, DATABASE = embeddings(0, 40), embeddings(1, 120)


def scaled(part, scale):
    return replace(part, features=(part.features.astype(np.float64) * scale).astype(np.float32))


def values(evaluation, queries, database):
    found = EVALUATIONS[evaluation](queries, database, DIMS)
    timed = ("latency_ms", "single_latency_ms", "latency_ms_all_threads", "single_latency_ms_all_threads")
    return {(row.dim, row.metric, row.setting): row.value for row in found if row.metric not in timed}


@pytest.mark.parametrize("scale", [1e-30, 2.0**-70, 1e-20, 1e20, 2.0**70, 1e30])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_the_scale_does_not_matter(evaluation, scale):
    found = values(evaluation, scaled(QUERIES, scale), scaled(DATABASE, scale))
    assert found == pytest.approx(values(evaluation, QUERIES, DATABASE), rel=1e-3)


@pytest.mark.parametrize("evaluation", ANY_ROW)
def test_nor_does_a_scale_of_each_vector(evaluation):
    random = np.random.default_rng(2)
    query, row = (
        10.0 ** random.choice([-30, -20, 0, 20, 30], (len(part), 1)) for part in (QUERIES, DATABASE)
    )
    found = values(evaluation, scaled(QUERIES, query), scaled(DATABASE, row))
    assert found == pytest.approx(values(evaluation, QUERIES, DATABASE), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_nor_after_a_reduction(scale):
    def reduced(scale):
        queries, database = scaled(QUERIES, scale), scaled(DATABASE, scale)
        fitted = SVD(1).fit(database, 0)
        return values("knn", fitted.apply(queries), fitted.apply(database))

    assert reduced(scale) == pytest.approx(reduced(1))


def test_a_prefix_far_smaller_or_larger_than_the_rest_is_compared_by_its_own_norm():
    """By brute force in float64, of the search and of an index that re-ranks."""
    columns = np.repeat([1e-30, 1.0, 1e30], [4, 4, 8])
    queries, database = scaled(QUERIES, columns).features, scaled(DATABASE, columns).features
    found = nearest(queries, database, DIMS, 5)
    for dim in DIMS:
        short = [part[:, :dim].astype(np.float64) for part in (queries, database)]
        q, x = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in short)
        best = np.argsort(-(q @ x.T), axis=1)[:, :5]
        np.testing.assert_array_equal(found[dim].positions, best)
        stages = ((4, 120), (dim, 5)) if dim > 4 else ((4, 5),)
        search = AdaptiveIndex.build(database, None, IndexSpec((4,), "Flat", stages)).search(queries, 5)
        np.testing.assert_array_equal(search.ids, best)
        for cosines in (search.similarities, found[dim].similarities):
            np.testing.assert_allclose(cosines, np.take_along_axis(q @ x.T, best, 1), atol=1e-6)


def test_an_index_takes_vectors_of_other_scales_later():
    index = AdaptiveIndex.build(DATABASE.features, None, IndexSpec((4,), "Flat", ((4, 160), (16, 1))))
    index.search(QUERIES.features, 1)
    index.add(QUERIES.features * np.float32(1e-30), 1000 + np.arange(40))
    found = index.search(QUERIES.features * np.float32(1e30), 1)
    np.testing.assert_array_equal(found.ids[:, 0], 1000 + np.arange(40))
    np.testing.assert_allclose(found.similarities, 1, rtol=1e-6)


def test_sums_of_classes_of_different_scales():
    features = np.array([[1e38, 0], [2e38, 1e-30], [1e38, 0], [1e-38, 1e-38]], np.float32)
    sums = class_sums(features, np.array([0, 0, 0, 1]), 2)
    np.testing.assert_allclose(sums, [[4e38, 1e-30], [1e-38, 1e-38]], rtol=1e-6)


def classified(scale):
    weight = np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32)
    heads = Heads({WIDTH: weight}, {WIDTH: np.zeros(6, np.float32)}, tied=True)
    superclasses = {"name": list("abcdef"), "superclass": list("xxyyzz")}
    return replace(scaled(QUERIES, scale), heads=heads, classes=superclasses)


@pytest.mark.filterwarnings("ignore:(overflow|invalid)")
@pytest.mark.parametrize(
    "evaluation",
    [
        partial(linear, present_classes_only=False),
        partial(superclass, mapping=None, superclasses=2, within=None),
        partial(adaptive_classification, policies=[], splits=1, fit_share=0.5, present_classes_only=False),
    ],
)
def test_logits_are_right_up_to_float32_and_refused_beyond(evaluation):
    def top1(scale):
        found = evaluation(classified(scale), None, DIMS)
        return [row.value for row in found if row.metric == "top1"]

    assert top1(1e30) == top1(1e20) == top1(1)  # without biases a scale changes no order
    with pytest.raises(UserError, match=r"NaN or (infinite logits|beyond float32)"):
        top1(7e37)


@pytest.mark.filterwarnings("ignore:(overflow|invalid)")
def test_a_reduction_beyond_float32_is_refused():
    large = replace(DATABASE, features=np.full_like(DATABASE.features, 3e38))
    with pytest.raises(UserError, match=r"after the reduction(.|\n)*scale the embeddings"):
        SVD(1).fit(large, 0).apply(large)


def test_a_feature_that_never_changes_in_the_database_says_nothing():
    def constant(part, value):
        features = part.features.copy()
        features[:, 3] = value
        return replace(part, features=features)

    first = values("probe", constant(QUERIES, 0.1), constant(DATABASE, 0.1))
    assert values("probe", constant(QUERIES, 1e20), constant(DATABASE, 0.1)) == pytest.approx(first, rel=1e-5)
    one = embeddings(3, 6)
    alone = replace(one, features=one.features[:1], labels=one.labels[:1])
    ours = replace(QUERIES, labels=np.zeros(40, int))
    assert {key[1]: value for key, value in values("probe", ours, alone).items()} == {
        "top1": 1,
        "top5": 1,
        "nll": 0,
    }
