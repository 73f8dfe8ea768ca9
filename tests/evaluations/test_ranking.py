import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_experiments.evaluations.ranking import average_precision, hits, ranking_quality


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_average_precision_is_its_definition(rows):
    for value, right in zip(average_precision(np.array(rows)), rows, strict=True):
        assert value == pytest.approx(sum(sum(right[: i + 1]) / (i + 1) for i in range(5) if right[i]) / 5)


def test_a_missing_neighbour_is_never_right():
    labels = np.array([7, 8])
    found = hits(np.array([[0, 1, -1], [1, 0, -1]]), labels, np.array([7, 8]))
    assert found.tolist() == [[True, False, False], [True, False, False]]


def test_quality_averages_over_queries():
    right = np.array([[True, False], [False, True]])
    assert ranking_quality(right) == {"mAP@2": pytest.approx(3 / 8), "P@2": 0.5, "top1": 0.5}
