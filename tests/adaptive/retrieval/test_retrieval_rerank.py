import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_experiments.adaptive.retrieval import rerank
from mrl_experiments.adaptive.retrieval.rerank import Candidates, best, similarities
from mrl_experiments.directions import inverse_norms, unit_prefixes


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), data=st.data())
def test_similarities_are_the_cosines_of_the_prefixes(width, data):
    dim = data.draw(st.integers(1, width))  # also sizes that do not divide the width
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    vectors = rng.normal(size=(30, width)).astype(np.float32)
    queries = rng.normal(size=(4, width)).astype(np.float32)
    positions = rng.integers(0, 30, (4, 7))
    found = similarities(queries, vectors, inverse_norms(vectors, [dim])[dim], positions, dim)
    for query, row, cosines in zip(queries, positions, found, strict=True):
        for position, cosine in zip(row, cosines, strict=True):
            a, b = query[:dim].astype(float), vectors[position, :dim].astype(float)
            np.testing.assert_allclose(cosine, a @ b / np.sqrt((a @ a) * (b @ b)), atol=1e-5)


def test_a_missing_candidate_is_infinitely_far():
    vectors = np.eye(4, dtype=np.float32)
    found = similarities(vectors[:1], vectors, inverse_norms(vectors, [4])[4], np.array([[0, -1]]), 4)
    assert found.tolist() == [[1.0, -np.inf]]


def test_an_all_zero_prefix_is_similar_to_nothing():
    vectors = np.array([[0, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    assert similarities(
        vectors[1:], vectors, inverse_norms(vectors, [2])[2], np.array([[0, 1]]), 2
    ).tolist() == [[0, 1]]


def test_unit_prefix_leaves_its_input_alone():
    vectors = np.full((3, 4), 2, np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit_prefixes(vectors, 2), axis=1), 1, rtol=1e-6)
    assert (vectors == 2).all()


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, -np.inf]), min_size=1, max_size=12),
    keep=st.integers(1, 12),
)
def test_best_keeps_the_highest_scores_in_order(scores, keep):
    found = best(Candidates(np.array([scores], np.float32), np.arange(len(scores))[None]), keep)
    np.testing.assert_array_equal(found.similarities[0], np.sort(np.float32(scores))[::-1][:keep])
    np.testing.assert_array_equal(np.float32(scores)[found.ids[0]], found.similarities[0])
    assert len(set(found.ids[0])) == min(keep, len(scores))


def test_equal_candidates_are_ordered_by_position():
    found = best(Candidates(np.zeros((1, 4), np.float32), np.array([[3, 0, 2, 1]])), 4)
    assert found.ids.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("dim", [5, 12])
def test_the_compiled_loop_finds_what_numpy_does(monkeypatch, similarity, dim):
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    vectors, queries = (rng.normal(size=(count, 12)).astype(np.float32) for count in (40, 6))
    vectors[7] = vectors[3]  # equals, which are ordered by position
    norms = inverse_norms(vectors, [dim])[dim] if similarity == "cosine" else np.empty(0, np.float32)
    positions = np.array([rng.permutation(40)[:20] for _ in range(6)])
    positions[0, :18] = -1
    given = queries, vectors, norms, Candidates(np.empty((6, 20), np.float32), positions), dim, 4, similarity
    compiled = rerank.nearest(*given)
    monkeypatch.setattr(rerank, "COMPILED", False)
    plain = rerank.nearest(*given)
    np.testing.assert_allclose(compiled.similarities, plain.similarities, atol=1e-5)
    np.testing.assert_array_equal(compiled.ids[1:], plain.ids[1:])


def test_patience_ends_a_query_after_as_many_failures():
    pytest.importorskip("numba")
    vectors = np.float32([[5], [4], [1], [2], [9]])
    positions = np.arange(5)[None]
    given = np.float32([[1]]), vectors, np.empty(0, np.float32)
    for patience, expected in ((0, [4, 0]), (2, [0, 1]), (3, [4, 0])):
        found = rerank.nearest(
            *given, Candidates(np.empty((1, 5), np.float32), positions), 1, 2, "inner_product", patience
        )
        assert found.ids[0].tolist() == expected
