"""Nearest class means: few examples against loops, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances_argmin

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.few_shot import few_shot
from mrl_experiments.nested_accuracy import TIED
from mrl_experiments.search.class_means import class_sums, nearest_means

DIMS = (3, 8, 16)
CLASSES = 12


def samples(seed, per_class=20, noise=1.0, meta=None):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, DIMS[-1]))
    labels = random.permutation(np.repeat(np.arange(CLASSES) * 3 + 1, per_class))  # no label is its place
    features = centres[labels // 3] + noise * random.normal(size=(len(labels), DIMS[-1]))
    return Embeddings(features.astype(np.float32), labels, None, {"dims": DIMS, **(meta or {})})


def table(rows):
    return {(row.dim, str(row.setting), row.metric): row.value for row in rows}


def shots_of(queries, database, **options):
    options = {"shots": [1, 3, 5], "ways": None, "draws": 4, "seed": 0, **options}
    return table(few_shot(queries, database, DIMS, **options))


@pytest.mark.filterwarnings("error")
def test_stored_features_which_are_read_only_bring_no_warning():
    queries = samples(0)
    queries.features.setflags(write=False)
    assert shots_of(queries, samples(1))


def test_class_sums_add_up_each_class():
    random = np.random.default_rng(0)
    features, classes = random.normal(size=(500, 7)).astype(np.float32), random.integers(0, 9, 500)
    expected = np.array([features[classes == c].sum(axis=0) for c in range(10)])
    np.testing.assert_allclose(class_sums(features, classes, 10, block=64), expected, atol=1e-4)


def test_nearest_means_against_scikit_learn():
    database, queries = samples(0), samples(1, per_class=60)  # more than a block
    places = database.labels // 3
    found = nearest_means(
        queries.features, class_sums(database.features, places, CLASSES).astype(np.float32), DIMS
    )
    for dim in DIMS:
        means = np.array([database.at(dim)[places == c].mean(axis=0) for c in range(CLASSES)])
        expected = pairwise_distances_argmin(queries.at(dim), means, metric="cosine")
        assert (found[dim] == expected).mean() > 0.999  # float32 and float64 may part at a tie


def test_equal_means_are_tied_and_zeros_are_similar_to_nothing():
    queries = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    sums = np.array([[-1, 0, 0], [2, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    assert nearest_means(queries, sums, [3])[3].tolist() == [TIED, TIED]
    assert nearest_means(queries, sums[[0, 1, 3]], [3])[3].tolist() == [1, TIED]


def test_with_all_examples_no_draw_differs_and_the_loop_agrees():
    database, queries = samples(0, per_class=5), samples(1)
    found = shots_of(queries, database, shots=[2, 5])
    for dim in DIMS:
        sums = np.array(
            [database.at(dim)[database.labels == c].sum(axis=0) for c in np.unique(queries.labels)]
        )
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        expected = ((queries.at(dim) @ sums.T).argmax(axis=1) == queries.labels // 3).mean()
        assert found[dim, "shots=5", "top1"] == pytest.approx(expected)
        assert found[dim, "shots=5", "top1_std"] == found[dim, "shots=5", "top1_ci95"] == 0
        assert found[dim, "shots=2", "top1_std"] > 0


def test_the_interval_is_students():
    found = shots_of(samples(1), samples(0), draws=4)
    key = (8, "shots=3")
    # t of 97.5 % with 3 degrees of freedom, from a table
    assert found[*key, "top1_ci95"] == pytest.approx(3.1824 * found[*key, "top1_std"] / 2, rel=1e-4)


def test_more_examples_help_and_seeds_repeat():
    database, queries = samples(0, per_class=40, noise=2.0), samples(1, per_class=40, noise=2.0)
    found = shots_of(queries, database, shots=[1, 5, 20], draws=6)
    rising = [found[16, f"shots={n}", "top1"] for n in (1, 5, 20)]
    assert rising == sorted(rising) and rising[2] - rising[0] > 0.1
    assert found == shots_of(queries, database, shots=[20, 1, 5], draws=6)
    assert found != shots_of(queries, database, shots=[1, 5, 20], draws=6, seed=1)


def test_the_examples_of_a_split_are_no_queries_of_it():
    """Distinct directions: only an example itself is similar to a query, so a leak would show as a hit."""
    labels = np.repeat(np.arange(4), 3)
    features = np.eye(12, 16, dtype=np.float32)
    same = Embeddings(features, labels, None, {"dims": DIMS})
    found = table(few_shot(same, same, [16], shots=[1, 2], ways=None, draws=20, seed=0))
    # The one query of each class is orthogonal to all means, which counts against it.
    assert found[16, "shots=1", "top1"] == found[16, "shots=2", "top1"] == 0
    equal = Embeddings(features.copy(), labels, None, {"dims": DIMS})  # as two files of one content are
    assert found == table(few_shot(same, equal, [16], shots=[1, 2], ways=None, draws=20, seed=0))
    other = Embeddings(features[::-1].copy(), labels[::-1].copy(), None, {"dims": DIMS})
    found = table(few_shot(same, other, [16], shots=[1, 2], ways=None, draws=20, seed=0))
    assert found[16, "shots=2", "top1"] == pytest.approx(8 / 12)


def test_fewer_ways_are_easier_and_say_so():
    database, queries = samples(0, noise=2.0), samples(1, noise=2.0)
    found = shots_of(queries, database, ways=3, draws=30)
    assert {setting for _, setting, _ in found} == {f"shots={n} ways=3" for n in (1, 3, 5)}
    assert found[16, "shots=5 ways=3", "top1"] > shots_of(queries, database)[16, "shots=5", "top1"]
    assert shots_of(queries, database, ways=12)[8, "shots=1 ways=12", "top1"] > 1 / 12


def test_bad_input():
    queries, database = samples(1), samples(0)
    with pytest.raises(UserError, match="no database"):
        shots_of(queries, None)
    with pytest.raises(
        UserError, match=r"12 of 12 classes have fewer than 21 examples, such as class 1 with 20"
    ):
        shots_of(queries, database, shots=[21])
    with pytest.raises(UserError, match="fewer than 21 examples"):
        shots_of(database, database, shots=[20])
    with pytest.raises(UserError, match=r"ways=13(.|\n)*2 to 12"):
        shots_of(queries, database, ways=13)
