from collections import Counter

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mrl_experiments.metrics.votes import class_rank
from mrl_experiments.search.neighbours import nearest


def brute_rank(voters, similarities, label):
    nearest = {}
    for voter, similarity in zip(voters, similarities, strict=True):
        nearest.setdefault(voter, similarity)
    standing = {voter: (count, nearest[voter]) for voter, count in Counter(voters).items()}
    if label not in standing:
        return len(voters)
    return sum(other >= standing[label] for name, other in standing.items() if name != label)


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_against_counting(k):
    rng = np.random.default_rng(k)
    voters, labels = rng.integers(0, 6, (3000, k)), rng.integers(0, 7, 3000)  # few classes: many ties
    similarities = -np.sort(rng.integers(0, 4, (3000, k)), axis=1).astype(np.float32)  # many equally near
    rows = zip(voters.tolist(), similarities.tolist(), labels.tolist(), strict=True)
    found = class_rank(voters, similarities, labels)
    np.testing.assert_array_equal(found, [brute_rank(*row) for row in rows])


def test_large_labels_stay_apart():
    voters = np.array([[2**40, 2**40 + 1, 2**40 + 1]])
    assert class_rank(voters, np.array([[0.9, 0.8, 0.7]]), np.array([2**40]))[0] == 1


def test_against_scikit_learn_where_no_votes_are_equal():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)  # two classes and an odd k: never equal
    database = (rng.standard_normal((400, 6)) + labels[:, None]).astype(np.float32)
    queries, truth = database[300:], labels[300:]
    found = nearest(queries, database[:300], [6], 9)[6]
    unit = database / np.linalg.norm(database, axis=1, keepdims=True)
    predicted = KNeighborsClassifier(9).fit(unit[:300], labels[:300]).predict(unit[300:])
    np.testing.assert_array_equal(
        class_rank(labels[found.positions], found.similarities, truth) == 0, predicted == truth
    )
