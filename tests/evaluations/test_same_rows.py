"""Queries that are rows of their database, and databases of a few rows."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import FEATURES, Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.adaptive_retrieval import adaptive_retrieval
from mrl_experiments.evaluations.auto_retrieval import auto_retrieval
from mrl_experiments.evaluations.cosine_span import cosine_span
from mrl_experiments.evaluations.cross_modal import cross_modal
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.evaluations.probe import lbfgs, probe
from mrl_experiments.evaluations.retrieval import retrieval
from mrl_experiments.evaluations.zero_shot import zero_shot
from mrl_experiments.notices import print_once
from mrl_experiments.search.same_rows import count_copies, same_rows

DIMS = (2, 4, 8)


@pytest.fixture(autouse=True)
def told_anew():
    print_once.cache_clear()


def embeddings(seed, count, classes=3):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = (1.5 * np.eye(classes, 8)[labels] + random.normal(size=(count, 8))).astype(np.float32)
    return Embeddings(features, labels, None, {"dims": list(DIMS), "split": "val"})


def copied(part):
    return replace(part, features=part.features.copy(), labels=part.labels.copy())


def ranked(queries, database, dim, same):
    """Return the labels of all other rows, nearest first, by brute force."""
    q, x = (part.features[:, :dim].astype(np.float64) for part in (queries, database))
    cosines = (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T
    if same:
        np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : len(database) - same]
    return database.labels[order]


def by_key(rows):
    return {(row.dim, row.metric, str(row.setting)): row.value for row in rows}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_few_rows_and_their_own_neighbours_against_brute_force(seed, count, classes, same):
    database = embeddings(seed, count, classes)
    if same:
        queries = copied(database)
    else:
        queries = replace(
            embeddings(seed + 1, 5), labels=np.random.default_rng(seed).choice(database.labels, 5)
        )
    others = count - same
    if others < 1:
        with pytest.raises(UserError, match="at least two vectors"):
            list(knn(queries, database, DIMS, k=[1]))
        return
    votes = by_key(knn(queries, database, DIMS, k=[1]))
    ranks = by_key(retrieval(queries, database, DIMS, k=[others]))
    for dim in DIMS:
        right = ranked(queries, database, dim, same) == queries.labels[:, None]
        assert votes[dim, "top1", "k=1"] == right[:, 0].mean()
        for first in (1, 5, 10):
            assert ((dim, f"top{first}", "") in ranks) == (first <= others or first == 1)
            if first <= others:
                assert ranks[dim, f"top{first}", ""] == right[:, :first].any(axis=1).mean()
        precisions = right.cumsum(axis=1) / np.arange(1, others + 1)
        assert ranks[dim, f"mAP@{others}", ""] == pytest.approx(
            (precisions * right).sum(axis=1).mean() / others
        )
        assert ranks.get((dim, f"R@{others}", "")) == (1 if right.any() else None)


def test_it_is_told_and_nothing_is_compared_with_itself(capsys):
    database = embeddings(0, 60)
    lone = replace(database, labels=np.concatenate([[9], database.labels[1:]]))
    list(knn(lone, copied(lone), DIMS, k=[1]))
    out = capsys.readouterr().out
    assert "all of 60 queries (val) are the database itself: none is compared with itself" in out
    assert "1 of 60 queries (val) are alone in their class" in out and "copy" not in out
    with pytest.raises(UserError, match=r"k=60 neighbours of each of 60 vectors(.|\n)*1 to 59"):
        list(knn(lone, lone, DIMS, k=[60]))


def test_copies_are_counted(capsys):
    database, queries = embeddings(0, 60), embeddings(1, 20)
    queries.features[3:7] = database.features[[5, 9, 5, 50]]
    list(knn(queries, database, DIMS, k=[1]))
    assert "4 of 20 queries (val) have an exact copy in the database" in capsys.readouterr().out
    database.features[10] = database.features[11]
    list(retrieval(database, copied(database), DIMS, k=[1]))
    assert "2 of 60 queries (val) have an exact copy among the others" in capsys.readouterr().out


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 3))
def test_copies_against_loops(seed, width):
    random = np.random.default_rng(seed)
    queries, database = (random.integers(0, 3, (n, width)).astype(np.float32) for n in (8, 12))
    rows = [row.tobytes() for row in database]
    assert count_copies(queries, database, False) == sum(row.tobytes() in rows for row in queries)
    assert count_copies(database, database, True) == sum(rows.count(row) > 1 for row in rows)


def test_two_folders_of_one_content_are_the_same_rows(tmp_path):
    part = embeddings(0, 20)
    meta = [part.meta | {"checksum": {FEATURES: digest}} for digest in "aab"]
    first, second, third = (
        replace(copied(part), meta=m, folder=tmp_path / str(i)) for i, m in enumerate(meta)
    )
    third = replace(third, features=embeddings(1, 20).features)
    assert same_rows(first, second) and not same_rows(first, third)
    assert same_rows(first, replace(third, folder=first.folder))
    assert not same_rows(part, embeddings(1, 20)) and not same_rows(part, embeddings(0, 21))


@pytest.mark.parametrize("count", [2, 60, 5000])
def test_copies_of_fewer_digits_or_of_norm_1_are_the_same_rows(count):
    part = embeddings(0, count)
    longer = part.features * np.random.default_rng(1).uniform(0.5, 20, (count, 1)).astype(np.float32)
    half = part.features.astype(np.float16).astype(np.float32)
    brain = torch.from_numpy(part.features).bfloat16().float().numpy()
    for features in (longer, half, brain):
        assert same_rows(part, replace(part, features=features))
    moved = part.features.copy()
    moved[-1] += 0.5
    assert not same_rows(part, replace(part, features=moved))
    assert not same_rows(part, replace(part, features=np.roll(part.features, 1, axis=0)))


def test_vectors_that_nearly_agree_with_all_others_are_not_the_same_rows():
    first, second = embeddings(0, 60), embeddings(1, 60)
    for part in (first, second):
        part.features[:] = 1 + 1e-4 * part.features  # as of a network that has learnt nothing
    assert not same_rows(first, second)
    one_way = [
        replace(part, features=np.abs(part.features) * (np.arange(8) == 0)) for part in (first, second)
    ]
    assert not same_rows(*one_way) and same_rows(one_way[0], copied(one_way[0]))
    width_one = [replace(part, features=part.features[:, :1].copy()) for part in (first, second)]
    assert not same_rows(*width_one) and same_rows(width_one[0], copied(width_one[0]))


@pytest.mark.parametrize("evaluation", [adaptive_retrieval, auto_retrieval])
def test_an_index_does_not_give_queries_themselves(evaluation):
    rows = embeddings(0, 200)
    options = {
        adaptive_retrieval: {
            "indexes": {"flat": partial(IndexSpec, codes="Flat")},
            "shortlist": 199,
            "lengths": [],
            "lengths_dim": 2,
            "timed": 2,
        },
        auto_retrieval: {"max_loss": 0.9, "max_latency": None},
    }[evaluation]
    found = by_key(evaluation(rows, copied(rows), DIMS, k=5, max_queries=200, **options))
    right = ranked(rows, rows, 8, True)[:, :5] == rows.labels[:, None]
    precisions = (right.cumsum(axis=1) / np.arange(1, 6) * right).sum(axis=1) / 5
    if evaluation is adaptive_retrieval:
        assert found[2, "mAP@5", "index=flat rerank=8 shortlist=199"] == pytest.approx(precisions.mean())
        assert found[8, "top1", "index=flat rerank=8 shortlist=5"] == right[:, 0].mean()
    else:
        (value,) = [value for (_, metric, _), value in found.items() if metric == "mAP@5"]
        (lost,) = [value for (_, metric, _), value in found.items() if metric == "mAP@5_lost"]
        tested = np.random.default_rng(0).permutation(200)[200 // 3 :]
        assert value + lost == pytest.approx(precisions[tested].mean())


def test_both_directions_leave_out_the_query_itself():
    rows = embeddings(0, 30)
    found = by_key(cross_modal(rows, copied(rows), DIMS, k=[1]))
    right = ranked(rows, rows, 8, True)[:, 0] == rows.labels
    for direction in ("image_to_text", "text_to_image"):
        assert found[8, "recall@1", f"direction={direction}"] == right.mean()


@pytest.mark.parametrize(
    "evaluation",
    [zero_shot, cosine_span, partial(probe, solver=partial(lbfgs, iterations=1, l2=0.1), seed=0)],
)
def test_what_means_nothing_on_its_own_database_is_refused(evaluation):
    rows = embeddings(0, 30)
    with pytest.raises(UserError, match=r"the same rows(.|\n)*database="):
        list(evaluation(rows, copied(rows), DIMS))


def test_an_index_that_needs_more_vectors_is_left_out_and_the_others_are_measured(capsys):
    indexes = {name: partial(IndexSpec, codes=name) for name in ("IVF256,Flat", "Flat", "HNSW8", "PQ3x4")}
    options = {"k": 3, "shortlist": 20, "lengths": [], "lengths_dim": 2, "max_queries": 9, "timed": 1}
    queries, database = embeddings(1, 20), embeddings(0, 200)
    found = by_key(adaptive_retrieval(queries, database, DIMS, indexes=indexes, **options))
    assert {setting.split()[0] for *_, setting in found} == {"index=Flat", "index=HNSW8"}
    out = capsys.readouterr().out
    assert out.count("index=IVF256,Flat is left out at [2, 4, 8] dims") == 1
    assert "more lists than vectors" in out
    assert out.count("index=PQ3x4 is left out at [2, 4, 8] dims") == 1
    for alone in (["IVF256,Flat"], []):
        chosen = {name: indexes[name] for name in alone}
        with pytest.raises(UserError, match=r"256|there is no index"):
            list(adaptive_retrieval(queries, database, DIMS, indexes=chosen, **options))


def test_auto_names_the_option_that_helps():
    rows = embeddings(0, 200)
    with pytest.raises(UserError, match=r"allow more: max_latency="):
        list(
            auto_retrieval(embeddings(1, 20), rows, DIMS, k=3, max_loss=None, max_latency=1e-9, max_queries=9)
        )
    with pytest.raises(UserError, match="one query"):
        list(auto_retrieval(embeddings(1, 1), rows, DIMS, k=3, max_loss=0.5, max_latency=None, max_queries=9))


@pytest.mark.parametrize("evaluation", [partial(knn, k=[1]), partial(retrieval, k=[1]), cosine_span])
def test_no_queries_are_refused(evaluation):
    with pytest.raises(UserError, match="0 queries"):
        list(evaluation(embeddings(0, 0), embeddings(0, 5), DIMS))
