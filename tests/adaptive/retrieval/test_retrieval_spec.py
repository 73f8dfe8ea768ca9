import pytest

from mrl_experiments.adaptive.retrieval.spec import IndexSpec, check_stages, funnel, split_effort
from mrl_experiments.errors import UserError


def test_one_rerank_is_a_funnel_of_two():
    assert funnel(16, [2048], 200, 10) == ((16, 200), (2048, 10))


def test_no_rerank_is_a_single_search():
    assert funnel(16, [], 200, 10) == ((16, 10),)


def test_the_papers_funnel_halves_the_list_down_to_k():
    stages = funnel(8, [16, 32, 64, 128, 2048], 200, 10)
    assert stages == ((8, 200), (16, 100), (32, 50), (64, 25), (128, 12), (2048, 10))


@pytest.mark.parametrize(
    "stages, message",
    [
        ([], "no indexed dim"),
        ([[32, 100], [64, 10]], "no indexed dim"),
        ([[16, 100], [32, 50], [32, 10]], "do not nest"),
        ([[16, 100], [8, 10]], "do not nest"),
        ([[16, 10], [64, 20]], "keep more"),
        ([[16, 0]], "k=0"),
        ([[16, 2.5]], "k=2.5"),
        ([[16.0, 2]], "dim=16.0"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        check_stages(stages, (16,))


@pytest.mark.parametrize("dims", [(32, 16), (16, 16), (0, 16)])
def test_dims_that_do_not_nest_are_refused(dims):
    with pytest.raises(UserError, match="do not nest"):
        IndexSpec(dims, "Flat", ((16, 10),))


@pytest.mark.parametrize("coarse_dim", [0, 32])
def test_a_coarse_size_outside_the_scanned_one_is_refused(coarse_dim):
    with pytest.raises(UserError, match="coarse_dim"):
        IndexSpec((16,), "IVF8,Flat", ((16, 10),), coarse_dim=coarse_dim)


def test_a_shortlist_shorter_than_k_is_refused():
    with pytest.raises(UserError, match="shortlist of 5 for k=10"):
        funnel(16, [64], 5, 10)


def test_lists_from_a_configuration_become_tuples():
    spec = IndexSpec([16, 32], "Flat", [[16, 100], [64, 10]])  # type: ignore[arg-type]
    assert spec == IndexSpec((16, 32), "Flat", ((16, 100), (64, 10)))
    assert spec.width == 64


def test_an_effort_tells_what_faiss_does_not_know():
    assert split_effort("nprobe=8,margin=2.5,patience=3") == ("nprobe=8", 3, 2.5)
    assert split_effort("") == ("", 0, float("inf"))


@pytest.mark.parametrize("effort", ["margin=x", "margin=-1", "margin=nan", "patience=1.5", "patience="])
def test_an_effort_that_makes_no_sense_is_refused(effort):
    with pytest.raises(UserError, match="effort="):
        split_effort(effort)
