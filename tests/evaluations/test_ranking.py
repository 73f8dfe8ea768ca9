import numpy as np
import pytest
import torch

from mrl_experiments.metrics import ranking


def random_lists(seed, queries=20, count=60):
    return np.random.default_rng(seed).random((queries, count)) < 0.3


def brute_average_precision(relevant, k):
    values = []
    for row in relevant:
        total, found = 0.0, 0
        for rank, right in enumerate(row[:k], start=1):
            if right:
                found += 1
                total += found / rank
        values.append(total / k)
    return values


@pytest.mark.parametrize("k", [1, 5, 10, 60])
def test_against_loops_and_torchmetrics(k):
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalPrecision, RetrievalRecall  # dear to import

    relevant = random_lists(k)
    np.testing.assert_allclose(ranking.average_precision(relevant, k), brute_average_precision(relevant, k))

    queries, count = relevant.shape
    scores = torch.arange(count, 0, -1.0).repeat(queries, 1).flatten()
    arguments = (scores, torch.tensor(relevant).flatten(), torch.arange(queries).repeat_interleave(count))
    total = relevant.sum(axis=1)
    for ours, theirs in (
        (ranking.precision(relevant, k), RetrievalPrecision(top_k=k)),
        (ranking.recall(relevant, k, total), RetrievalRecall(top_k=k)),
        (ranking.hit(relevant, k), RetrievalHitRate(top_k=k)),
    ):
        assert ours.mean() == pytest.approx(theirs(arguments[0], arguments[1], indexes=arguments[2]).item())


def test_denominators():
    relevant = np.array([[True, False, True, False]])
    assert ranking.average_precision(relevant, 4)[0] == pytest.approx((1 + 2 / 3) / 4)  # k, not 2
    assert ranking.recall(relevant, 4, np.array([8]))[0] == pytest.approx(2 / 8)  # the whole database's
    assert ranking.precision(relevant, 2)[0] == 0.5
    assert ranking.hit(~relevant, 1)[0] == 0
