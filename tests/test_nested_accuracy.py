"""Nested top-k against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from mrl_experiments.nested_accuracy import TIED, label_rank, nested_hits, sole_highest

B, L, C = 64, 9, 30


def problem():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, L, C, generator=generator), torch.randint(C, (B,), generator=generator)


def test_agrees_with_scikit_learn():
    logits, labels = problem()
    hits = nested_hits(logits, labels, (1, 2, 5))
    for level in range(L):
        for column, k in enumerate((1, 2, 5)):
            share = top_k_accuracy_score(labels, logits[:, level], k=k, labels=np.arange(C))
            assert hits[level, column] == round(share * B)


def test_a_mapping_by_size_gives_the_same():
    logits, labels = problem()
    by_dim = {2**level: logits[:, level] for level in range(L)}
    assert torch.equal(nested_hits(by_dim, labels), nested_hits(logits, labels))


def test_ties_and_nan_count_against_the_label():
    labels = torch.tensor([0, 1])
    assert nested_hits(torch.zeros(2, 1, 8), labels).tolist() == [[0, 0]]
    assert nested_hits(torch.full((2, 1, 8), torch.nan), labels).tolist() == [[0, 0]]
    five_share_the_top = torch.tensor([[[1.0, 1, 1, 1, 1, 0]]] * 2)
    assert nested_hits(five_share_the_top, labels).tolist() == [[0, 2]]


@pytest.mark.parametrize("k", [(1,), (1, 5)])
def test_k_of_at_least_all_classes_counts_everything(k):
    logits, labels = problem()
    assert (nested_hits(logits[..., :5], labels % 5, (*k, 5))[:, -1] == B).all()


def test_scores_that_only_rounding_parts_are_equal():
    scores = torch.tensor([[1.0, 1.0 - 2e-7, 0.0], [1.0, 1.0 - 1e-4, 0.0]])
    assert label_rank(scores, torch.tensor([0, 0])).tolist() == [1, 0]
    assert sole_highest(scores.numpy()).tolist() == [TIED, 0]
    assert sole_highest(1000 * scores.numpy(), np.full(2, 1000.0)).tolist() == [TIED, 0]  # of long queries
    assert sole_highest(np.full((1, 3), np.nan)).tolist() == [TIED]
