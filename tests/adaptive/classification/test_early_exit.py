import numpy as np
import pytest

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier, run_cascade
from mrl_experiments.adaptive.classification.early_exit import IncrementalLogits
from mrl_experiments.adaptive.classification.exits import read_exits
from mrl_experiments.adaptive.classification.policies.uniform import Uniform, sweep
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.results import Setting

DIMS = (4, 8, 16)


def problem(tied, count=50):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 16)).astype(np.float32)
    own = DIMS[-1:] if tied else DIMS
    weights = {dim: rng.normal(size=(7, dim)).astype(np.float32) for dim in own}
    return features, Heads(weights, {dim: rng.normal(size=7).astype(np.float32) for dim in own}, tied)


@pytest.mark.parametrize("kind", ["tied", "separate", "given"])
def test_logits_are_those_of_each_size_for_the_samples_kept(kind):
    features, heads = problem(kind == "tied")
    given = {dim: heads.logits(features, dim) for dim in DIMS}
    rows = np.arange(5, 40)
    table = IncrementalLogits(
        given if kind == "given" else features, None if kind == "given" else heads, rows
    )
    for dim in DIMS:
        np.testing.assert_allclose(table.at(dim), heads.logits(features[rows], dim), rtol=1e-4, atol=1e-5)
        keep = np.arange(len(rows)) % 3 > 0
        table.keep(keep)
        rows = rows[keep]
        np.testing.assert_array_equal(table.rows, rows)


def test_a_tied_classifier_multiplies_each_column_once():
    features, heads = problem(tied=True)
    expected = {dim: heads.logits(features, dim) for dim in DIMS}
    table = IncrementalLogits(features, heads, np.arange(50))
    for below, dim in zip((0, *DIMS), DIMS, strict=False):
        heads.weights[16][:, :below] = np.nan
        np.testing.assert_allclose(table.at(dim), expected[dim], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_larger_dims_are_computed_for_low_confidence_samples_alone(tied):
    features, heads = problem(tied)
    exits = read_exits(features, heads, DIMS)
    confident = exits.confidence[0] > 0.6
    assert 0 < confident.sum() < 50
    features[confident, 4:] = np.nan  # would be refused as logits that are not finite
    stages = list(run_cascade(Cascade(DIMS, (0.6, 0.9)), features, heads, np.arange(50)))
    np.testing.assert_array_equal(stages[0].confident, confident)
    np.testing.assert_array_equal(stages[1].rows, np.flatnonzero(~confident))
    assert sum(stage.confident.sum() for stage in stages) == 50


def test_a_uniform_threshold_is_the_same_at_all_sizes():
    features, heads = problem(tied=True)
    exits, labels = read_exits(features, heads, DIMS), np.zeros(50, np.int64)
    assert sweep(exits, labels, thresholds=[0.25, 1]) == {
        Setting(policy="uniform", threshold=0.25): Cascade(DIMS, (0.25, 0.25)),
        Setting(policy="uniform", threshold=1): Cascade(DIMS, (1, 1)),
    }
    for threshold, dim in ((0, 4), (1, 16)):
        fitted = AdaptiveClassifier(heads).fit(Uniform(threshold), features, labels, dims=DIMS)
        assert set(fitted.predict(features).dims) == {dim}
    with pytest.raises(UserError, match=r"thresholds \[1.5, 1.5\]"):
        Uniform(1.5).cascade(DIMS)
