import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

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
