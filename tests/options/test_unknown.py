"""What newcomers mistype, or expect from other trainers, is answered with what to type."""

import pytest
from composing import composed
from hydra.errors import HydraException

from mrl_experiments.errors import UserError
from mrl_experiments.options.unknown import check_flags, not_composed


def answer(command, *typed):
    """Return what a command says to arguments that make no configuration."""
    with pytest.raises(HydraException) as refused:
        composed(command, *typed)
    said = not_composed(
        "\n".join(str(one) for one in (refused.value, refused.value.__cause__) if one), command
    )
    assert len(str(said).splitlines()) <= 3
    return str(said)


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "trainer.max_epoch=3", "trainer.max_epochs"),
        ("train", "loss.dmis=[8,16]", "loss.dims"),
        ("train", "lr=0.1", "optim.lr"),
        ("train", "batch_size=32", "data.batch_size"),
        ("train", "epoch=3", "did you mean epochs?"),
        ("train", "modle=resnet50", "did you mean model?"),
        ("train", "ckpt_path=last.ckpt", "init_from=<run>"),
        ("train", "num_workers=2", "data.workers"),
        ("train", "loss.temperature=1", "belongs to loss=infonce"),
        ("train", "mine.own=1", "+mine.own=<value>"),
        ("train", "data=digts", "data=digits"),
        ("train", "data=qqqq", "one of cifar10, "),
        ("train", "model=resnt18", "model=resnet18"),
        ("train", "digits", "data=digits, or experiment=digits"),
        ("train", "loss.dims=8,16", "'loss.dims=[8,16]' is one list; -m loss.dims=8,16"),
        ("train", "loss.dims=[8,16", "--help shows"),
        ("evaluate", "embedings=base.npy", "did you mean embeddings?"),
        ("evaluate", "evaluation=knn,retrieval", "'evaluation=[knn,retrieval]' is one list"),
        ("evaluate", "evaluation.kk=3", "did you mean evaluation.k"),
        ("export", "fromat=onnx", "did you mean format?"),
    ],
)
def test_a_remedy_names_what_to_type(command, typed, meant):
    said = answer(command, typed)
    assert meant in said


def test_several_seeds_are_a_sweep():
    said = answer("train", "experiment=digits", "seed=0,1")
    assert "-m seed=0,1" in said and "list" not in said


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--lr", "optim.lr=<value>"), ("--batch-size=3", "data.batch_size=3"), ("--experiment", "experiment=<")],
)
def test_options_with_dashes_are_refused_with_how_they_are_typed(flag, meant):
    with pytest.raises(UserError, match="there is no flag") as refused:
        check_flags([flag, "1"], "train")
    assert meant in refused.value.remedy
    check_flags(["-m", "--cfg", "job", "--config-dir=x", "--multirun", "a=--b", "--help"], "train")
