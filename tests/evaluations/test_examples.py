"""Which samples the evaluation of examples shows, and what it says of them."""

from dataclasses import replace

import numpy as np
import pytest

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.evaluations.examples import examples, select, spread

OPTIONS = {"columns": 3, "shown": 4, "k": 3, "shortlists": [12, 6], "confusions": 2, "seed": 0}
NAMES = ["ant", "bee", "cat", "dog"]


def embeddings(count: int, seed: int) -> Embeddings:
    """Four classes; the first two features cannot tell ant from bee, the others can."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    features = rng.normal(size=(count, 8)).astype(np.float32) * 0.05
    features[:, :2] += np.array([[1, 0], [1, 0], [0, 1], [-1, 0]])[labels]
    features[np.arange(count), 2 + labels] += 3
    return Embeddings(features, labels, None, {"dims": [2, 4, 8]}, classes={"name": NAMES})


@pytest.fixture
def found():
    queries, database = embeddings(40, 0), embeddings(80, 1)
    return queries, database, list(examples(queries, database, [2, 4, 8], **OPTIONS))


def test_measurements_come_with_examples_at_the_last_dim(found):
    *_, rows = found
    assert [(row.dim, row.metric) for row in rows] == [
        (dim, metric) for dim in (2, 4, 8) for metric in ("top1", "confused_pairs")
    ]
    (shown,) = [row.examples for row in rows if row.examples]
    assert shown.dims == [2, 4, 8]
    assert shown.top1 == [row.value for row in rows if row.metric == "top1"]
    assert shown.top1[0] < 0.9 and shown.top1[2] == 1.0


def test_neighbours_are_the_nearest_by_cosine_and_name_their_class(found):
    queries, database, rows = found
    shown = rows[-1].examples
    for query in shown.queries:
        asked = shown.samples[query.sample]
        assert asked.of_queries and asked.name == NAMES[queries.labels[asked.row]]
        for dim, near in zip(shown.dims, query.near, strict=True):
            units = [part / np.linalg.norm(part, axis=1, keepdims=True)
                     for part in (queries.at(dim)[[asked.row]], database.at(dim))]  # fmt: skip
            expected = np.argsort(-(units[0] @ units[1].T)[0])[:3]
            assert [shown.samples[place].row for place in near] == expected.tolist()
            assert not any(shown.samples[place].of_queries for place in near)


def test_a_funnel_keeps_fewer_at_each_dim_and_counts_those_of_the_class(found):
    *_, rows = found
    shown = rows[-1].examples
    for query in shown.queries:
        assert [(stage.dim, stage.kept) for stage in query.funnel] == [(2, 12), (4, 6), (8, 3)]
        assert query.funnel[-1].right == 3  # eight features find the class among twelve
        assert all(len(stage.first) == 3 and stage.right <= stage.kept for stage in query.funnel)


def test_confusions_are_those_of_few_dims_with_their_counts_at_all(found):
    queries, _, rows = found
    shown = rows[-1].examples
    named = {(shown.samples[c.sample].name, shown.samples[c.other].name): c for c in shown.confusions}
    assert named.keys() == {("ant", "bee"), ("bee", "ant")}
    for confusion in named.values():
        assert confusion.of == 10 and confusion.counts[0] > 0 == confusion.counts[2]
    wrong = sum(confusion.counts[0] for confusion in named.values())
    assert wrong == round((1 - shown.top1[0]) * len(queries))
    assert rows[1].value == 2 and rows[-1].value == 0


def test_queries_of_all_kinds_take_turns_and_are_of_different_classes():
    hits = np.array([[0, 1], [0, 1], [0, 1], [1, 1], [0, 0], [1, 1]], bool)
    labels = np.array([0, 0, 1, 2, 3, 2])
    rows = select(hits, labels, 4, seed=0)
    assert {tuple(hits[row].tolist()) for row in rows[:3]} == {(False, True), (False, False), (True, True)}
    assert len({*labels[rows].tolist()}) == 4
    assert rows == select(hits, labels, 4, seed=0) and sorted(select(hits, labels, 99, seed=1)) == [*range(6)]


def test_of_a_split_in_itself_no_query_is_its_own_neighbour():
    queries = embeddings(24, 0)
    *_, last = examples(queries, queries, [2, 8], **OPTIONS)
    for query in last.examples.queries:
        row = last.examples.samples[query.sample].row
        lists = [*query.near, *(stage.first for stage in query.funnel)]
        assert row not in [last.examples.samples[place].row for places in lists for place in places]


def test_a_database_smaller_than_the_shortlist_and_labels_of_any_size():
    queries, database = embeddings(8, 0), embeddings(6, 1)
    queries, database = (
        replace(part, labels=part.labels * 10**15 - 7, classes={}) for part in (queries, database)
    )
    *_, last = examples(queries, database, [8], **OPTIONS)
    assert [stage.kept for stage in last.examples.queries[0].funnel] == [3]
    assert {sample.label for sample in last.examples.samples} <= {0, 1, 2, 3}
    assert last.examples.samples[0].name in {str(label) for label in queries.labels.tolist()}


@pytest.mark.parametrize("count, expected", [(1, [512]), (2, [8, 512]), (4, [8, 32, 128, 512]), (99, None)])
def test_dims_stand_side_by_side_in_even_ratios(count, expected):
    dims = [8, 16, 32, 64, 128, 256, 512]
    assert spread(dims, count) == (expected or dims)
