"""Starting from another run's backbone, and training only what is named."""

import shutil

import pytest
import torch
from commands import COARSE
from composing import composed

from mrl_experiments.build import build_method, load_method
from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run
from mrl_experiments.training.finetuning import freeze, take_backbone
from mrl_experiments.training.train import train

BLOCK = "backbone.net.layer4.0"


def config(root, *overrides):
    loader = ["data.loader=torch", "data.workers=1", "trainer.limit_train_batches=4"]
    return composed("train", *COARSE, f"root={root}", *loader, *overrides)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of runs with one finished FF model."""
    root = tmp_path_factory.mktemp("source")
    train(config(root, "loss=ff", "epochs=1"))
    return root


@pytest.fixture
def root(source, tmp_path):
    shutil.copytree(source / "runs", tmp_path / "runs")
    return tmp_path


def state(root, name):
    return load_method(Run(root / "runs" / name)).state_dict()


def new_method(**model):
    cfg = config("unused", *(f"model.{key}={value}" for key, value in model.items()))
    return build_method(cfg, channels=1, size=32, num_classes=10)


@pytest.mark.parametrize(
    "trained", [["head"], ["head", f"{BLOCK}.conv2"], ["head", f"{BLOCK}.conv?"], ["head", BLOCK]]
)
@pytest.mark.slow
def test_what_is_frozen_stays_as_the_source_left_it_bit_by_bit(root, trained, recwarn):
    train(config(root, "init_from=ff_tiny_digits_s0", f"train_only=[{','.join(trained)}]"))
    assert not [one for one in recwarn if "in eval mode" in str(one.message)]  # which is what was asked for
    before, after = state(root, "ff_tiny_digits_s0"), state(root, "mrl_tiny_digits_s0")
    backbone = [name for name in before if name.startswith("backbone.")]
    changed = {name for name in backbone if not torch.equal(before[name], after[name])}
    named = {part.removesuffix("?") for part in trained[1:]}
    allowed = {name for name in backbone if any(name.startswith(part) for part in named)}
    # All that is trained moves: weights by gradients, the statistics of a named BatchNorm by the data.
    assert changed == allowed


def test_without_patterns_everything_is_trained(root):
    train(config(root, "init_from=ff_tiny_digits_s0"))
    before, after = state(root, "ff_tiny_digits_s0"), state(root, "mrl_tiny_digits_s0")
    assert not [n for n in before if n.startswith("backbone.") and torch.equal(before[n], after[n])]


def test_the_new_head_is_not_the_sources(source):
    method = new_method()
    heads = {name: value.clone() for name, value in method.head.state_dict().items()}
    take_backbone(method, "ff_tiny_digits_s0", source)
    theirs = load_method(Run(source / "runs" / "ff_tiny_digits_s0")).backbone.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in method.backbone.state_dict().items())
    assert all(torch.equal(value, heads[name]) for name, value in method.head.state_dict().items())


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("head.linear.12", {"head.linear.12.weight", "head.linear.12.bias"}),
        ("*.bias", None),
        (f"{BLOCK}.conv1", {f"{BLOCK}.conv1.weight"}),
        (f"{BLOCK}.bn*", {f"{BLOCK}.bn{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}),
    ],
)
def test_a_pattern_names_parameters_or_whole_modules(pattern, named):
    method = new_method()
    freeze(method, [pattern])
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained == (named or {name for name, _ in method.named_parameters() if name.endswith(".bias")})


def test_only_batch_norm_that_is_named_goes_on_learning():
    method = new_method()
    freeze(method, ["head", BLOCK])
    norms = {name: m.training for name, m in method.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {name for name, training in norms.items() if training} == {n for n in norms if BLOCK in n}
    assert len(norms) > 3


@pytest.mark.parametrize("pattern", ["layer4.0.conv2", "backbone.net.layer4.0.convolution2", "heads"])
def test_a_pattern_that_names_nothing_is_refused_with_names_near_it(pattern):
    with pytest.raises(UserError, match="names no parameter") as caught:
        freeze(new_method(), ["head", pattern])
    near = {"heads": "head"}.get(pattern, "backbone.net.layer4.0.conv2")
    assert near in caught.value.expected


def test_an_unknown_source_lists_the_finished_runs(source):
    with pytest.raises(UserError, match="init_from=ff_other") as caught:
        take_backbone(new_method(), "ff_other", source)
    assert "ff_tiny_digits_s0" in caught.value.expected


def test_another_backbone_is_refused(source):
    with pytest.raises(UserError, match="does not fit"):
        take_backbone(new_method(arch="resnet10t"), "ff_tiny_digits_s0", source)


def test_a_resumed_run_no_longer_needs_its_source(root, capsys):
    cfg = config(root, "init_from=ff_tiny_digits_s0", "train_only=[head]")
    train(cfg)
    (root / "runs" / "mrl_tiny_digits_s0" / "finished.json").unlink()
    shutil.rmtree(root / "runs" / "ff_tiny_digits_s0")
    train(cfg)
    assert (root / "runs" / "mrl_tiny_digits_s0" / "finished.json").exists()
