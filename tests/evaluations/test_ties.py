"""One rule for ties, held by every evaluation there is: a tie counts against the label."""

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from commands import ROOT
from composing import composed

import mrl_experiments.evaluations
from mrl_experiments.construct import construct
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.evaluations.retrieval import retrieval
from mrl_experiments.heads import Heads

OPTIONS = sorted(path.stem for path in (ROOT / "conf" / "evaluation").glob("*.yaml"))
MODULES = {path.stem for path in (ROOT / "src/mrl_experiments/evaluations").glob("*.py")} - {"__init__"}
DIMS, CLASSES = (8, 16, 32), 60
SMALL = {"max_queries": 20, "timed": 20, "max_loss": 1.0}  # not times, nor a choice of indexes, is asked here


@cache
def configured(option):
    return composed("evaluate", f"evaluation={option}").evaluation


def equal_vectors(a_class):
    """Embeddings of one and the same vector under all labels, with heads that prefer no class."""
    vector = np.random.default_rng(0).normal(size=DIMS[-1]).astype(np.float32)
    labels = np.repeat(np.arange(CLASSES), a_class)  # of a class together: the first found are of one
    heads = Heads(
        {dim: np.zeros((CLASSES, dim), np.float32) for dim in DIMS},
        {dim: np.zeros(CLASSES, np.float32) for dim in DIMS},
        tied=False,
    )
    classes = {
        "name": [f"c{number}" for number in range(CLASSES)],
        "superclass": [f"s{number // 2}" for number in range(CLASSES)],
    }
    known = {"dims": DIMS, "dataset": "ties", "bytes": 1000, "masked": None}
    ids = np.arange(len(labels)).astype(str)
    return Embeddings(np.tile(vector, (len(labels), 1)), labels, heads, known, classes=classes, ids=ids)


def first_hits(measurements):
    return [row.value for row in measurements if row.metric in ("top1", "recall@1")]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "served"])  # it asks an engine
def test_equal_features_of_several_classes_find_none(option, tmp_path):
    evaluation = configured(option).copy()
    for name, value in SMALL.items():
        if name in evaluation:
            evaluation[name] = value
    if "qrels" in evaluation:  # the first document of each query's class is the one judged
        (tmp_path / "qrels").write_text("".join(f"{q} 0 {10 * (q // 2)} 1\n" for q in range(2 * CLASSES)))
        evaluation.update({"qrels": str(tmp_path / "qrels"), "k": [1, 10]})
    measure = construct(evaluation)
    found = first_hits(measure(equal_vectors(2), equal_vectors(10), DIMS))
    if not found:
        pytest.skip("reports no top-1")
    assert set(found) == {0.0}


@pytest.mark.parametrize("evaluation", [knn, retrieval])
@pytest.mark.parametrize("width, asked, searched", [(384, 513, 517), (64, 513, 517), (2048, 40, 520)])
def test_equal_vectors_are_equally_near_wherever_they_stand(evaluation, width, asked, searched):
    # In products of matrices of these sizes, rows at the edge of a block are rounded otherwise.
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    queries, database = (
        Embeddings(np.tile(vector, (count, 1)), np.arange(count) * 3 // count, None, {})
        for count in (asked, searched)
    )
    assert set(first_hits(evaluation(queries, database, [width], k=[1, 5]))) == {0.0}


@pytest.mark.parametrize("itself", [False, True])
def test_where_many_are_tied_the_search_is_done_twice_and_not_once_a_query(itself):
    rng = np.random.default_rng(0)
    database = Embeddings(np.ones((5000, 64), np.float32), rng.integers(0, 10, 5000), None, {})
    queries = (
        database
        if itself
        else replace(database, features=database.features[:2500], labels=database.labels[:2500])
    )
    start = time.process_time()
    assert set(first_hits(retrieval(queries, database, [16, 64], k=[10]))) == {0.0}
    assert time.process_time() - start < 12  # 2 s; one query after the other: more than 20


def test_each_evaluation_has_an_option_of_its_name():
    targets = {name: configured(name)._target_ for name in OPTIONS}
    of = {
        name: target.removeprefix(f"{mrl_experiments.evaluations.__name__}.")
        for name, target in targets.items()
    }
    assert {name for name, target in of.items() if target == f"{name}.{name}"} == MODULES
    assert {target.split(".")[0] for target in of.values()} == MODULES  # also those of aliases and variants
