"""Several evaluations in one command, each with options of its own."""

import pytest
from commands import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from mrl_experiments.errors import UserError
from mrl_experiments.options.several import each, told_apart


def chosen(*typed):
    """Return what `each` makes of a command line, by evaluation and reduction."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", told_apart(["run=x", *typed]), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        try:
            found = {tuple(choice.values()): one for one, choice in each(cfg, "evaluate")}
        finally:
            HydraConfig.instance().cfg = None
    return found


def test_one_choice_is_what_hydra_composed():
    ((names, cfg),) = chosen("evaluation=knn", "evaluation.k=[3]").items()
    assert names == ("knn", "prefix") and cfg.evaluation.k == [3]
    assert next(iter(chosen())) == ("trained_head", "prefix")


def test_each_choice_has_options_of_its_own():
    found = chosen(
        "evaluation=[knn,retrieval]", "evaluation.knn.k=[3]", "evaluation.retrieval.k=[7]", "dims=[8]"
    )
    assert {names: (list(one.evaluation.k), list(one.dims)) for names, one in found.items()} == {
        ("knn", "prefix"): ([3], [8]), ("retrieval", "prefix"): ([7], [8]),
    }  # fmt: skip
    assert all("several" not in one for one in found.values())


def test_an_option_of_one_choice_wins_over_one_of_all_wherever_it_stands():
    found = chosen("evaluation.knn.k=[3]", "evaluation=[knn,retrieval]", "evaluation.k=[5]")
    assert [list(one.evaluation.k) for one in found.values()] == [[3], [5]]


def test_options_that_lie_deeper_and_what_an_evaluation_sets_elsewhere_stay_apart():
    found = chosen(
        "evaluation=[cross_modal,probe,funnel,adaptive_retrieval]", "evaluation.probe.solver.l2=0.5",
        "evaluation.funnel.indexes.flat.codes=SQ8",
    )  # fmt: skip
    by_name = {evaluation: one for (evaluation, _), one in found.items()}
    assert by_name["probe"].evaluation.solver.l2 == 0.5
    assert by_name["funnel"].evaluation.indexes.flat.codes == "SQ8"
    assert by_name["adaptive_retrieval"].evaluation.indexes.flat.codes == "Flat"
    assert {name: one.database for name, one in by_name.items()} == {
        "cross_modal": "*_text", "probe": None, "funnel": None, "adaptive_retrieval": None,
    }  # fmt: skip


def test_what_one_reduction_alone_has_need_not_name_it():
    found = chosen("evaluation=knn", "reduction=[prefix,adaptor]", "reduction.file=a.safetensors")
    assert {reduction: one.reduction.get("file") for (_, reduction), one in found.items()} == {
        "prefix": None, "adaptor": "a.safetensors",
    }  # fmt: skip
    ((_, alone),) = chosen("evaluation=knn", "reduction=adaptor", "reduction.file=a.safetensors").items()
    assert alone.reduction.file == "a.safetensors"


def test_reductions_are_combined_with_evaluations():
    found = chosen("evaluation=[knn,probe]", "reduction=[prefix,jl]", "reduction.jl.draws=2")
    assert [*found] == [("knn", "prefix"), ("knn", "jl"), ("probe", "prefix"), ("probe", "jl")]
    assert found["probe", "jl"].reduction.draws == 2


@pytest.mark.parametrize("evaluation", ["knn", "retrieval"])
def test_in_a_sweep_an_option_of_one_choice_concerns_its_jobs_alone(evaluation):
    told = told_apart(["evaluation=knn,retrieval", "evaluation.knn.k=[3]"])
    assert told == ["evaluation=knn,retrieval", "++several.options.evaluation.knn.k=[3]"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [f"evaluation={evaluation}", *told[1:]], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        ((one, _),) = each(cfg, "evaluate")
        HydraConfig.instance().cfg = None
    assert (one.evaluation.k == [3]) == (evaluation == "knn")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["evaluation=[knn,retreival]"], r"Could not find 'evaluation/retreival'(.|\n)*retrieval"),
        (["evaluation=[knn,retrieval]", "evaluation.retrieval.kk=[3]"], r"evaluation\.kk"),
        (["evaluation=[knn,retrieval]", "evaluation.retrieval.k=none"], r"evaluation\.k=none"),
        (["evaluation=[knn,auto_retrieval]", "evaluation.k=[3,4]"], r"evaluation\.k=\[3, ?4\]"),
    ],
)
def test_what_does_not_fit_one_choice_is_named(typed, message):
    with pytest.raises(UserError, match=message):
        chosen(*typed)


@pytest.mark.parametrize(
    "argument", ["callbacks=[best,ema]", "evaluation.k=[3]", "-m", "~evaluation", "dims=[8]"]
)
def test_all_else_stays(argument):
    assert told_apart([argument]) == [argument]
