"""Predict, then update: blocks against the definition, sample by sample."""

import numpy as np
import pytest

from mrl_experiments.directions import SAME_SCORE
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.stream import long_tail, stream
from mrl_experiments.search.running_means import predict_then_update

DIMS = (2, 5, 12)
FREQUENCY = list(range(40, 0, -1))  # of 40 classes, the last is the commonest


def one_by_one(samples, classes, sums, seen, dims):
    """The definition."""
    sums, seen, predicted = sums.copy(), seen.copy(), {dim: [] for dim in dims}
    for x, own in zip(samples.astype(np.float64), classes, strict=True):
        for dim in dims:
            norms = np.sqrt((sums[:, :dim] ** 2).sum(axis=1))
            inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
            scores = np.where(seen, (sums[:, :dim] @ x[:dim]) * inverse, -np.inf)
            best = np.flatnonzero(scores >= scores.max() - SAME_SCORE * np.linalg.norm(x[:dim]))
            predicted[dim].append(int(best[0]) if len(best) == 1 else -1)
        sums[own] += x
        seen[own] = True
    return predicted


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_equal_the_definition(seed, block):
    # Whole numbers make all sums exact, so that even equal cosines must fall alike; many are equal here.
    random = np.random.default_rng(seed)
    samples = random.integers(-2, 3, (300, 12)).astype(np.float32)
    samples[random.random(300) < 0.1, :5] = 0  # prefixes of zeros, as rectified features have them
    classes = random.integers(0, 15, 300)
    sums = random.integers(-3, 4, (15, 12)).astype(np.float64)
    seen = np.arange(15) < 6
    sums[~seen] = 0
    expected = one_by_one(samples, classes, sums, seen, DIMS)
    found = predict_then_update(samples, classes, sums.copy(), seen, DIMS, block)
    assert {dim: predicted.tolist() for dim, predicted in found.items()} == expected


def test_blocks_equal_the_definition_on_real_numbers():
    random = np.random.default_rng(0)
    classes = random.integers(0, 60, 1500)
    samples = (random.normal(size=(60, 12))[classes] + random.normal(size=(1500, 12))).astype(np.float32)
    seen = np.arange(60) < 20
    sums = random.normal(size=(60, 12)) * seen[:, None]
    expected = one_by_one(samples, classes, sums, seen, DIMS)
    found = predict_then_update(samples, classes, sums, seen, DIMS)
    for dim in DIMS:
        assert (found[dim] == expected[dim]).mean() > 0.998  # single and double precision part at near ties


def embeddings(labels, frequency=None, noise=0.5):
    labels = np.asarray(labels)
    centres = np.random.default_rng(1).normal(size=(40, DIMS[-1]))
    features = centres[labels] + noise * np.random.default_rng(len(labels)).normal(size=(len(labels), 12))
    classes = {"frequency": frequency} if frequency else {}
    return Embeddings(features.astype(np.float32), labels, None, {"dims": DIMS}, classes=classes)


def test_a_long_tail_has_few_samples_of_rare_classes():
    samples = embeddings(np.repeat(np.arange(40), 30), FREQUENCY)
    rows = long_tail(samples, known=np.arange(20), imbalance=15, seed=0)
    counts = np.bincount(samples.labels[rows], minlength=40)
    for group in (counts[:20], counts[20:]):  # known and new classes have a head and a tail each
        assert (np.diff(group) >= 0).all() and group[0] == 2 and group[-1] == 30
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) < 0).mean() == pytest.approx(0.5, abs=0.1)  # shuffled
    again, other = (long_tail(samples, np.arange(20), 15, seed) for seed in (0, 1))
    assert (again == rows).all() and not np.array_equal(other, rows)


def test_a_long_tail_takes_what_there_is_and_draws_unknown_ranks():
    samples = embeddings([0] * 3 + [1] * 50 + [2] * 50, [1, 2, None])
    counts = np.bincount(samples.labels[long_tail(samples, np.arange(3), 5, 0)])
    assert counts.tolist() == [3, 22, 10]  # 50, 50 / sqrt(5), 50 / 5; a class without rank is the rarest
    unranked = embeddings(np.repeat(np.arange(40), 30))
    counts = np.bincount(unranked.labels[long_tail(unranked, np.arange(40), 15, 0)])
    assert sorted(counts)[0] == 2 and sorted(counts)[-1] == 30 and not (np.diff(counts) >= 0).all()
    assert len(long_tail(unranked, np.arange(40), 1, 0)) == 1200


def test_groups_are_means_over_classes():
    database = embeddings(np.repeat(np.arange(20), 50))
    queries = embeddings(np.random.default_rng(3).permutation(np.repeat(np.arange(40), np.arange(1, 41))))
    found = {(row.dim, row.metric): row.value for row in run(queries, database, imbalance=None, head=10)}
    sums = np.zeros((40, 12))
    np.add.at(sums, database.labels, database.features.astype(np.float64))
    predicted = one_by_one(queries.features, queries.labels, sums, np.arange(40) < 20, DIMS)
    for dim in DIMS:
        right = np.array(predicted[dim]) == queries.labels
        own = np.array([right[queries.labels == c].mean() for c in range(40)])
        head, known = np.arange(1, 41) > 10, np.arange(40) < 20
        assert found[dim, "top1"] == pytest.approx(right.mean(), abs=0.002)
        for name, group in {
            "pretrain_head": known & head,
            "pretrain_tail": known & ~head,
            "novel_head": ~known & head,
            "mean_per_class": known | ~known,
        }.items():
            assert found[dim, name] == pytest.approx(own[group].mean(), abs=0.002)
        assert (dim, "novel_tail") not in found  # there is none


def test_new_classes_are_learned_on_the_way():
    database = embeddings(np.repeat(np.arange(20), 50))
    queries = embeddings(np.repeat(np.arange(40), 30), FREQUENCY)
    found = {(row.dim, row.metric): row.value for row in run(queries, database, imbalance=15, head=10)}
    assert found[12, "pretrain_head"] > 0.8 and found[12, "novel_head"] > 0.7
    assert found[12, "novel_tail"] < found[12, "novel_head"]
    assert found[2, "top1"] < found[12, "top1"]


def run(queries, database, **options):
    return stream(queries, database, DIMS, **{"imbalance": 10, "head": 5, "seed": 0, **options})


def test_bad_input():
    queries = embeddings(np.repeat(np.arange(40), 3))
    with pytest.raises(UserError, match=r"no database to begin with(.|\n)*database=kanji1k/train"):
        list(run(queries, None))
    strangers = Embeddings(queries.features, queries.labels + 100, None, queries.meta)
    with pytest.raises(UserError, match="no class of the stream has a mean"):
        list(run(queries, strangers))
    with pytest.raises(UserError, match=r"the same rows(.|\n)*a stream of other samples"):
        list(run(queries, queries))
