import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_experiments.adaptive.classification.cascade import Cascade, full_cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.errors import UserError

LEVELS = [0.25, 0.5, 0.75, 1.0]  # few, so that confidences tie with thresholds
DIMS = (2, 4, 8, 16)


def stop_one_by_one(cascade, exits):
    answers = []
    for sample in range(len(exits)):
        for dim, threshold in zip(cascade.dims, (*cascade.thresholds, -1.0), strict=True):
            if exits.confidence[exits.dims.index(dim), sample] > threshold:
                answers.append(exits.dims.index(dim))
                break
    return answers


@st.composite
def cascades_with_exits(draw):
    thresholds = draw(st.lists(st.sampled_from([0.0, *LEVELS]), min_size=3, max_size=3))
    confidence = draw(st.lists(st.lists(st.sampled_from(LEVELS), min_size=4, max_size=4), min_size=1))
    confidence = np.asarray(confidence, np.float32).T
    return Cascade(DIMS, tuple(thresholds)), Exits(DIMS, np.zeros_like(confidence, np.int64), confidence)


@given(cascades_with_exits())
def test_stop_equals_a_loop_over_samples(case):
    cascade, exits = case
    assert cascade.stop(exits).tolist() == stop_one_by_one(cascade, exits)


@given(cascades_with_exits())
def test_pruning_changes_no_answer(case):
    cascade, exits = case
    assert cascade.pruned().stop(exits).tolist() == cascade.stop(exits).tolist()
    assert all(0 < threshold < 1 for threshold in cascade.pruned().thresholds)


@given(cascades_with_exits(), st.sampled_from(DIMS[1:]))
def test_a_cap_only_shortens_the_cascade(case, cap):
    cascade, exits = case
    capped = cascade.capped(cap).stop(exits)
    assert capped.tolist() == np.minimum(cascade.stop(exits), DIMS.index(cap)).tolist()


def test_the_full_cascade_needs_one_size_only():
    assert full_cascade(DIMS).pruned() == Cascade((16,), ())


@pytest.mark.parametrize("thresholds", [(0.5,), (0.5, 1.5), (0.5, float("nan"))])
def test_wrong_thresholds_are_refused(thresholds):
    with pytest.raises(UserError, match="thresholds"):
        Cascade((2, 4, 8), thresholds)


def test_a_cap_between_sizes_is_refused():
    with pytest.raises(UserError, match=r"cannot end at 3"):
        full_cascade(DIMS).capped(3)


def test_missing_sizes_are_named():
    exits = Exits((2, 4), np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32))
    with pytest.raises(UserError, match=r"no predictions at \[8, 16\] dims"):
        full_cascade(DIMS).stop(exits)
