import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from mrl_experiments.adaptive.classification.exits import BLOCK, read_exits
from mrl_experiments.errors import UserError


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 999))
def test_confidence_is_the_largest_softmax_probability(count, classes, seed):
    generator = np.random.default_rng(seed)
    logits = {d: 30 * generator.normal(size=(count, classes)).astype(np.float32) for d in (4, 8)}
    exits = read_exits(logits)
    for row, dim in enumerate(exits.dims):
        probabilities = softmax(logits[dim].astype(np.float64), axis=1)
        np.testing.assert_allclose(exits.confidence[row], probabilities.max(axis=1), rtol=1e-5)
        np.testing.assert_array_equal(exits.predicted[row], logits[dim].argmax(axis=1))


def test_features_with_heads_equal_their_logits(digits):
    logits = {dim: digits.heads.logits(digits.features, dim) for dim in digits.heads.dims()}
    from_logits = read_exits(logits)
    np.testing.assert_array_equal(from_logits.predicted, digits.exits.predicted)
    np.testing.assert_allclose(from_logits.confidence, digits.exits.confidence, rtol=1e-5)


def test_blocks_join_without_a_seam(synthetic):
    logits, _ = synthetic(0, BLOCK + 3, (8, 16))
    exits = read_exits(logits)
    tail = read_exits({dim: values[BLOCK - 2 :] for dim, values in logits.items()})
    np.testing.assert_array_equal(exits.confidence[:, BLOCK - 2 :], tail.confidence)


def test_logits_are_not_modified(synthetic):
    logits, _ = synthetic(0, 10, (8, 16))
    before = logits[8].copy()
    read_exits(logits)
    np.testing.assert_array_equal(logits[8], before)


def test_nan_logits_are_counted_and_named(synthetic):
    logits, _ = synthetic(0, 10, (8, 16))
    logits[16][[3, 7], 1] = np.nan
    with pytest.raises(UserError, match="16 dims: 2 samples have NaN or infinite logits, first sample 3"):
        read_exits(logits)


def test_a_class_may_be_masked_out(synthetic):
    logits, _ = synthetic(0, 10, (8, 16))
    logits[8][:, 0] = -np.inf
    assert (read_exits(logits).predicted[0] != 0).all()


@pytest.mark.parametrize("dims", [(16, 8), (8, 8), (0, 8), ()])
def test_sizes_that_do_not_nest_are_refused(digits, dims):
    with pytest.raises(UserError, match="do not nest"):
        read_exits(digits.features, digits.heads, dims)


def test_sizes_with_different_samples_are_refused(synthetic):
    logits, _ = synthetic(0, 10, (8, 16))
    logits[16] = logits[16][:9]
    with pytest.raises(UserError, match=r"\{8: 10, 16: 9\}"):
        read_exits(logits)


def test_features_without_classifiers_are_refused(digits):
    with pytest.raises(UserError, match="without classifiers"):
        read_exits(digits.features, dims=(8, 16))


@pytest.mark.parametrize("labels", [None, np.array([1, 2]), np.array([0, -1, 1])])
def test_missing_labels_are_refused(synthetic, labels):
    logits, _ = synthetic(0, 3, (8, 16))
    with pytest.raises(UserError, match="labels for 3 samples"):
        read_exits(logits).correct(labels)
