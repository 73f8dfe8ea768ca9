"""evaluation=language against a loop over single tokens."""

import math

import numpy as np
import pytest
from token_stream import DIMS, TEXT_BYTES, VOCABULARY, log_probabilities, token_stream

from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.language import language
from mrl_experiments.metrics import likelihood


def table(queries, dims=DIMS):
    return {(m.dim, m.metric): m.value for m in language(queries, None, dims)}


@pytest.mark.parametrize("tied", [False, True])
def test_every_figure_equals_a_loop_over_single_tokens(tied, monkeypatch):
    monkeypatch.setattr(likelihood, "BLOCK", 128)  # several blocks, the last not full
    queries = token_stream(tied=tied)
    found = table(queries)
    for dim in DIMS:
        hits1, hits5, bits = 0, 0, 0.0
        for row, label in enumerate(queries.labels):
            logp = log_probabilities(queries, row, dim)
            best = sorted(range(VOCABULARY), key=lambda token, logp=logp: -logp[token])
            hits1 += label == best[0]
            hits5 += label in best[:5]
            bits -= logp[label] / math.log(2)
        count = len(queries)
        assert found[dim, "top1"] == hits1 / count
        assert found[dim, "top5"] == hits5 / count
        assert found[dim, "nll"] == pytest.approx(bits * math.log(2) / count, rel=1e-5)
        assert found[dim, "perplexity"] == pytest.approx(2 ** (bits / count), rel=1e-5)
        assert found[dim, "bits_per_byte"] == pytest.approx(bits / TEXT_BYTES, rel=1e-5)
        assert found[dim, "macs"] == dim * VOCABULARY


def test_a_head_that_knows_nothing_has_the_perplexity_of_the_vocabulary():
    queries = token_stream(tied=True)
    queries.heads.weights[16][:], queries.heads.biases[16][:] = 0, 0
    found = table(queries)
    assert found[8, "perplexity"] == pytest.approx(VOCABULARY)
    assert found[8, "bits_per_byte"] == pytest.approx(np.log2(VOCABULARY) * len(queries) / TEXT_BYTES)


def test_the_cost_of_the_network_is_added_where_it_is_known():
    assert (8, "network_macs") not in table(token_stream())
    assert table(token_stream(macs=1000))[8, "network_macs"] == 1000 + 8 * VOCABULARY


def test_hidden_tokens_have_no_perplexity():
    found = table(token_stream(masked=0.15))
    assert {metric for _, metric in found} == {"top1", "top5", "nll", "macs"}


def test_only_sizes_with_a_head_are_evaluated():
    assert {dim for dim, _ in table(token_stream(), (4, 6, 16))} == {4, 16}
    assert {dim for dim, _ in table(token_stream(tied=True), (4, 6, 16))} == {4, 6, 16}


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="stream: these are not the tokens of a text"):
        table(token_stream(bytes=None))
    with pytest.raises(UserError, match="no classifiers"):
        table(token_stream(heads=False))
    with pytest.raises(UserError, match=r"no classifier at dims=\[5\]"):
        table(token_stream(), (5,))
    queries = token_stream()
    queries.labels[7] = VOCABULARY
    with pytest.raises(UserError, match="1 of 900 labels are not among the 30 classes"):
        table(queries)
