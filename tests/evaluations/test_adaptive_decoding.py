"""evaluation=adaptive_decoding against a loop over single tokens, and its thresholds' ends."""

import math
from functools import partial

import numpy as np
import pytest
from token_stream import DIMS, TEXT_BYTES, VOCABULARY, log_probabilities, token_stream

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.policies import joint, paper, risk_control, uniform
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.adaptive_decoding import adaptive_decoding
from mrl_experiments.evaluations.language import language
from mrl_experiments.results import Setting

FOLDS = 4
QUALITY = ("top1", "nll", "perplexity", "bits_per_byte", "expected_dim")


def given(*thresholds, dims=DIMS):
    """Return a policy that fits nothing."""
    return lambda exits, labels: {Setting(policy="given"): Cascade(dims, thresholds)}


def table(queries, *policies, dims=DIMS, **options):
    options = {"folds": FOLDS, "timed": 64, **options}
    rows = adaptive_decoding(queries, None, dims, policies=policies, **options)
    return {(str(row.setting), row.dim, row.metric): row.value for row in rows}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("thresholds", [(0.3, 0.6), (1.0, 0.5), (0.7, 0.0)])
def test_every_figure_equals_a_loop_over_single_tokens(tied, thresholds):
    queries = token_stream(900, tied=tied)
    found = table(queries, given(*thresholds))
    hits, nats, sizes, tried, macs = [], [], [], [], []
    for row, label in enumerate(queries.labels):
        computed = []
        for dim, threshold in zip(DIMS, (*thresholds, -1), strict=True):
            if threshold == 1:
                continue  # never answers, so it is not computed
            computed.append(dim)
            logp = log_probabilities(queries, row, dim)
            if np.exp(logp.max()) > threshold:
                break
        hits.append(label == logp.argmax())
        nats.append(-logp[label])
        sizes.append(computed[-1])
        tried.append(sum(computed))
        macs.append(VOCABULARY * (computed[-1] if tied else sum(computed)))
    expected = {
        "top1": np.mean(hits), "nll": np.mean(nats), "perplexity": math.exp(np.mean(nats)),
        "bits_per_byte": np.sum(nats) / math.log(2) / TEXT_BYTES, "expected_dim": np.mean(sizes),
        "expected_dim_cumulative": np.mean(tried), "head_macs": np.mean(macs),
    }  # fmt: skip
    assert len(set(sizes)) > 1
    for metric, value in expected.items():
        assert found["policy=given", 16, metric] == pytest.approx(value, rel=1e-5), metric


@pytest.mark.parametrize("tied", [False, True])
def test_single_sizes_are_those_of_the_language_evaluation(tied):
    queries = token_stream(901, tied=tied)  # folds of unequal length
    found, plain = table(queries), {(m.dim, m.metric): m.value for m in language(queries, None, DIMS)}
    for dim in DIMS:
        for metric in ("top1", "nll", "perplexity", "bits_per_byte"):
            assert found["policy=single", dim, metric] == pytest.approx(plain[dim, metric], rel=1e-5)
        assert found["policy=single", dim, "head_macs"] == plain[dim, "macs"]
        assert found["policy=single", dim, "expected_dim"] == dim


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("threshold", "dim"), [(0.0, 4), (1.0, 16)])
def test_the_ends_of_the_threshold_are_the_smallest_and_the_largest_size(tied, threshold, dim):
    found = table(token_stream(tied=tied), partial(uniform.sweep, thresholds=[threshold]))
    for metric in (*QUALITY, "expected_dim_cumulative", "head_macs"):
        adaptive = found[f"policy=uniform threshold={threshold:g}", 16, metric]
        assert adaptive == found["policy=single", dim, metric]


def test_thresholds_are_fitted_on_other_tokens_than_those_reported():
    queries = token_stream(900)
    fitted = []

    def by_fold(exits, labels):
        fitted.append(labels)
        stay = len(fitted) - 1  # the size at which all tokens of this fold's measurement are answered
        return {Setting(policy="by-fold"): Cascade(DIMS, tuple(float(i < stay) for i in range(2)))}

    found = table(queries, by_fold, folds=3)
    np.testing.assert_array_equal(np.concatenate(fitted), queries.labels)  # each stretch once, in order
    hits = []
    for fold, dim in enumerate(DIMS):
        for row in {*range(900)} - {*range(300 * fold, 300 * fold + 300)}:
            hits.append(log_probabilities(queries, row, dim).argmax() == queries.labels[row])
    assert found["policy=by-fold", 16, "top1"] == pytest.approx(np.mean(hits))


def test_every_setting_has_a_measured_speed():
    policies = [
        partial(uniform.sweep, thresholds=[0.3]),
        paper.sweep,
        partial(joint.sweep, drops=[0.0, 0.05]),
        partial(risk_control.sweep, drops=[0.1], delta=0.1),
    ]
    found = table(token_stream(), *policies)
    settings = {(setting, dim) for setting, dim, _ in found}
    assert settings == {
        *(("policy=single", dim) for dim in DIMS),
        ("policy=uniform threshold=0.3", 16),
        *((f"policy=paper cap={dim}", dim) for dim in DIMS[1:]),
        ("policy=joint drop=0", 16),
        ("policy=joint drop=0.05", 16),
        ("policy=risk_control drop=0.1 delta=0.1", 16),
    }
    assert all(0 < found[*setting, "tokens_per_s"] < math.inf for setting in settings)


def test_sizes_between_the_trained_ones_are_left_out_and_one_size_stands_alone():
    tied = token_stream(tied=True)
    assert {dim for _, dim, _ in table(tied, given(0.5, 0.5), dims=(4, 6, 8, 12, 16))} == {4, 8, 16}
    alone = table(token_stream(dims=(8,)), paper.sweep, dims=(8,))
    assert {(setting, dim) for setting, dim, _ in alone} == {("policy=single", 8)}


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="hidden tokens are not decoded"):
        table(token_stream(masked=0.15))
    with pytest.raises(UserError, match="not the tokens of a text"):
        table(token_stream(bytes=None))
    with pytest.raises(UserError, match="no classifiers"):
        table(token_stream(heads=False))
    with pytest.raises(UserError, match=r"no classifier at dims=\[5\]"):
        table(token_stream(), dims=(5,))
    for options in ({"folds": 1}, {"timed": 0}, {"folds": 901}):
        with pytest.raises(UserError, match="folds="):
            table(token_stream(), **options)
    queries = token_stream()
    queries.labels[7] = -1
    with pytest.raises(UserError, match="1 of 900 labels are not among the 30 classes"):
        table(queries)
