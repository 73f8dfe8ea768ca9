import numpy as np
import pytest

from mrl_experiments.adaptive.bounds import upper_bound
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.families import (
    full_width_families,
    lists,
    nested_families,
    wider_families,
)
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.quality import recall
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.tuning import Budget, Tuner
from mrl_experiments.errors import UserError

K, DIMS = 5, (8, 16, 32, 64)
RNG = np.random.default_rng(0)
DECAY = np.arange(1, 65) ** -0.5
DATABASE = (RNG.normal(size=(3000, 64)) * DECAY).astype(np.float32)
QUERIES = (DATABASE[:900] + 0.2 * RNG.normal(size=(900, 64)) * DECAY).astype(np.float32)


@pytest.fixture(scope="module")
def exact():
    exact = AdaptiveIndex.build(DATABASE, None, IndexSpec((64,), "Flat", ((64, K),))).search_stages(QUERIES)
    return exact


def choose(exact, budget):
    tuner = Tuner(QUERIES, exact, recall(exact), budget, threads=1)
    return tuner.choose(DATABASE, nested_families(len(DATABASE), DIMS, K))


@pytest.mark.parametrize("max_loss", [0.05, 0.2])
def test_a_loss_budget_is_kept_by_what_the_other_queries_show(exact, max_loss):
    tuned = choose(exact, Budget(max_loss=max_loss))
    kept = [spec for spec, shown in tuned.rungs if shown]
    assert tuned.index.spec in kept
    assert [shown for _, shown in tuned.rungs] == sorted((shown for _, shown in tuned.rungs), reverse=True)
    assert upper_bound(tuned.held_out.losses, 0.05) <= max_loss
    assert not tuned.held_out.exact and tuned.smallest is None


def test_the_queries_that_test_are_not_those_that_choose(exact):
    tuner = Tuner(QUERIES, exact, recall(exact), Budget(max_loss=0.2), threads=1)
    chose, tested = tuner.parts
    assert sorted([*chose, *tested]) == list(range(len(QUERIES))) and len(tested) == 600
    tuned = tuner.choose(DATABASE, nested_families(len(DATABASE), DIMS, K))
    found = tuned.index.search(QUERIES[tested], K).ids
    shares = [len(set(a) & set(b)) / K for a, b in zip(found, exact.ids[tested], strict=True)]
    assert tuned.held_out.quality == pytest.approx(np.mean(shares))
    assert tuned.held_out.loss == pytest.approx(1 - np.mean(shares))


def test_too_few_queries_give_exact_search_and_say_what_they_certify(exact):
    few = Candidates(*(part[:60] for part in exact))
    families = nested_families(len(DATABASE), DIMS, K), wider_families(len(DATABASE), DIMS, K)
    tuner = Tuner(QUERIES[:60], few, recall(few), Budget(max_loss=0.001), threads=1)
    tuned = tuner.choose(DATABASE, *families)
    assert tuned.held_out.exact and 0.05 < tuned.smallest < 0.3
    assert "as 40 queries show; 0.001 takes at least 6,03" in tuner.why()
    again = Tuner(QUERIES[:60], few, recall(few), Budget(max_loss=tuned.smallest), threads=1)
    assert again.choose(DATABASE, *families).smallest is None
    with pytest.raises(UserError, match=r"none of \d+ trials keeps(.|\n)*evaluation\.max_loss=0\."):
        tuner.choose(DATABASE, families[0])


def test_what_is_as_near_as_the_last_counts_as_found():
    """Copies of one vector are the same answer, whichever is found."""
    exact = Candidates(np.float32([[0.9, 0.5], [0.9, 0.8]]), np.array([[0, 1], [0, 1]]))
    found = Candidates(np.float32([[0.9, 0.5], [0.9, 0.5]]), np.array([[0, 7], [0, 2]]))
    assert recall(exact)(found, np.array([0, 1])).tolist() == [1.0, 0.5]
    missing = Candidates(np.float32([[0.9, -np.inf]]), np.array([[0, -1]]))
    assert recall(exact)(missing, np.array([1])).tolist() == [0.5]


def test_a_latency_budget_gives_the_least_loss_within_it(exact):
    some = Candidates(*(part[:60] for part in exact))
    tuner = Tuner(QUERIES[:60], some, recall(some), Budget(max_latency=1000), threads=1)
    tuned = tuner.choose(DATABASE, nested_families(len(DATABASE), DIMS, K)[:1])
    assert tuned.held_out.loss < 0.02
    assert (
        min(trial.loss for trial in tuned.trials)
        == tuned.trials[[trial.spec for trial in tuned.trials].index(tuned.index.spec)].loss
    )


@pytest.mark.parametrize("max_loss", [0.0, 0.01])
def test_vectors_whose_first_dims_tell_nothing_get_a_search_of_all(max_loss):
    """Each family of small dims is given up after one trial."""
    vectors = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    whole = AdaptiveIndex.build(vectors, None, IndexSpec((64,), "Flat", ((64, K),)))
    queries = vectors[:60] + np.float32(0.1)
    ids = whole.search_stages(queries)
    tuner = Tuner(queries, ids, recall(ids), Budget(max_loss=max_loss), threads=1)
    families = nested_families(len(vectors), DIMS, K)
    with pytest.raises(UserError, match=r"none of \d trials keeps(.|\n)*evaluation\.max_loss="):
        tuner.choose(vectors, families)
    tuned = tuner.choose(vectors, families, wider_families(len(vectors), DIMS, K))
    assert tuned.held_out.loss <= max_loss and tuned.index.spec.stages[-1] == (64, K)


def test_a_budget_that_nothing_keeps_is_refused(exact):
    with pytest.raises(UserError, match="none of"):
        choose(exact, Budget(max_latency=1e-9))


@pytest.mark.parametrize("limits", [{}, {"max_loss": 0.1, "max_latency": 1.0}])
def test_a_budget_has_one_limit(limits):
    with pytest.raises(UserError, match="one limit"):
        Budget(**limits)


@pytest.mark.parametrize(
    "count, dims", [(20, (8, 16)), (3000, DIMS), (1_281_167, (8, 16, 32, 64, 128, 2048))]
)
def test_families_nest_and_their_lists_are_long_enough(count, dims):
    for family in nested_families(count, dims, 10):
        assert all(plan[0][0] == family.spec.dims[0] and plan[-1] == (dims[-1], 10) for plan in family.plans)
    assert lists(count) * 16 <= max(16, count)


def test_opponents_use_all_features():
    assert all(family.plans == [((512, 10),)] for family in full_width_families(361_771, 512, 10))
