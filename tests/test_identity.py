"""What tells two trainings apart, and when one may go on."""

import re

import pytest
from composing import composed
from omegaconf import OmegaConf

from mrl_experiments.identity import STEP, automatic_tag, differences, fixed_length, processes


def configured(*overrides):
    return OmegaConf.to_container(composed("train", "data=digits", *overrides), resolve=True)


@pytest.mark.parametrize(
    "watched",
    [
        ["trainer=cpu"],
        ["trainer=gpu", "trainer.progress=false"],
        ["trainer=ddp", "trainer.devices=4", "data.batch_size=16"],
        ["trainer=ddp", "trainer.devices=[0,3]", "data.batch_size=32"],
        ["trainer.devices=2", "trainer.num_nodes=2", "data.batch_size=16"],
        ["compile=true", "data.workers=3", "logger=csv", "trainer.limit_test_batches=0.5"],
        ["callbacks=[best,lr_monitor]"],
    ],
)
def test_what_changes_no_result_is_the_same_run(watched):
    assert differences(configured(), configured(*watched)) == {}


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        (["data.batch_size=32"], [STEP]),
        (["trainer.devices=2"], [STEP]),
        (["trainer.accumulate_grad_batches=2"], ["trainer.accumulate_grad_batches"]),
        (["trainer.precision=32-true"], ["trainer.precision"]),
        (["trainer.limit_train_batches=3"], ["trainer.limit_train_batches"]),
        (["optim.lr=1", "epochs=9"], ["epochs", "optim.lr"]),
    ],
)
def test_what_changes_it_is_not(changed, keys):
    assert list(differences(configured(), configured(*changed))) == keys


def test_a_run_of_before_an_option_was_added_is_the_same():
    before, now = configured(), configured()
    del before["model"]["pretrained_by_order"], before["auto_tag"], before["compile"]
    assert differences(before, now) == {}


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({}, 1),
        ({"devices": "0,1,"}, 2),
        ({"devices": "2", "num_nodes": 3}, 6),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": -1, "accelerator": "auto"}, 3),
    ],
)
def test_processes_are_counted_as_lightning_does(trainer, count, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert processes(trainer) == count


def test_runs_that_are_stored_without_rising_weights_had_none():
    stored = configured()
    del stored["loss"]["weights_rise"]
    assert differences(stored, configured()) == {}
    changed = {"loss.weights_rise": (0, 0.5)}
    assert differences(stored, configured("loss.weights_rise=0.5")) == changed


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["optim=sgd_cyclic"], "the learning rate of optim=sgd_cyclic"),
        (["optim=adamw_cosine"], "the learning rate of optim=adamw_cosine"),
        (["optim=timm"], r"the learning rate of optim\.schedule=cosine"),
        (["optim=timm", "optim.schedule=wsd"], r"optim\.schedule=wsd"),
        (["optim=timm", "optim.schedule=constant", "epochs=1"], "warm-up"),
        (["optim=timm", "optim.schedule=constant", "loss.weights_rise=0.5"], "few dims rose over 0.5"),
    ],
)
def test_a_schedule_that_follows_the_length_cannot_go_on(overrides, why):
    assert re.search(why, fixed_length(configured(*overrides)) or "")


@pytest.mark.parametrize("schedule", ["constant", "plateau", "step", "multistep", "none"])
def test_a_schedule_without_an_end_can(schedule):
    alone = ["loss=infonce_ff", "loss.weights_rise=0.5", "optim=timm", f"optim.schedule={schedule}"]
    assert fixed_length(configured(*alone)) is None  # the weight of a single dim does not rise
    assert fixed_length(configured("optim=timm", f"optim.schedule={schedule}")) is None


def test_a_tag_names_what_the_name_does_not():
    typed = ["model=timm", "model.arch=resnet18", "data=digits", "logger.wandb.mode=offline", "root=/x"]
    assert automatic_tag([*typed, "trainer=gpu", "auto_tag=true"], {"name": "a", "arch": "a"}) == ""
    assert automatic_tag(["+loss.x=[1,2]", "data.root=~/my photos/all"], {}) == "_x1-2_rootall"
    assert automatic_tag(["model.arch=b"], {"name": "a", "arch": "b"}) == "_archb"
