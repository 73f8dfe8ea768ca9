from collections import Counter

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mrl_experiments.evaluations.neighbours import nearest
from mrl_experiments.evaluations.votes import class_rank


def brute_rank(voters, label):
    votes = Counter(voters)  # most_common sorts stably, and classes enter in order of nearness
    classes = [name for name, _ in votes.most_common()]
    return classes.index(label) if label in classes else len(voters)


@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_against_counting(k):
    rng = np.random.default_rng(k)
    voters, labels = rng.integers(0, 6, (3000, k)), rng.integers(0, 7, 3000)  # few classes: many ties
    expected = [brute_rank(row, label) for row, label in zip(voters.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_array_equal(class_rank(voters, labels), expected)


def test_large_labels_stay_apart():
    voters = np.array([[2**40, 2**40 + 1, 2**40 + 1]])
    assert class_rank(voters, np.array([2**40]))[0] == 1


def test_against_scikit_learn_where_no_votes_are_equal():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)  # two classes and an odd k: never equal
    database = (rng.standard_normal((400, 6)) + labels[:, None]).astype(np.float32)
    queries, truth = database[300:], labels[300:]
    found = nearest(queries, database[:300], [6], 9)[6]
    unit = database / np.linalg.norm(database, axis=1, keepdims=True)
    predicted = KNeighborsClassifier(9).fit(unit[:300], labels[:300]).predict(unit[300:])
    np.testing.assert_array_equal(class_rank(labels[found.positions], truth) == 0, predicted == truth)
