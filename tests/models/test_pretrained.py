"""Weights from files: which tensors are taken, and that those of another model are refused."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from mrl_experiments.errors import UserError
from mrl_experiments.models.pretrained import choose_state
from mrl_experiments.models.timm_backbone import TimmBackbone


@pytest.fixture(scope="module")
def donor():
    """The tensors of a network with a classifier of 10 classes."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=10).state_dict()


def built(pretrained, arch="test_resnet", channels=3, **options):
    return TimmBackbone(
        arch=arch, name="t", channels=channels, size=32, pretrained=str(pretrained), **options
    )


def are_those(backbone, donor):
    weights = backbone.net.state_dict()
    return len(weights) > 10 and all(torch.equal(value, donor[key]) for key, value in weights.items())


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def worse(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "model."),
        lambda state: prefixed(state, "backbone."),
        lambda state: prefixed(state, "module.model.backbone.net."),
        lambda state: {"epoch": 3, "state_dict": prefixed(state, "_orig_mod.")},
        lambda state: {
            "model": prefixed(state, "net."),
            "optimizer": {"state": {0: {"step": torch.ones(1)}}},
        },
        lambda state: {"state_dict": worse(state), "model_ema": state},
        lambda state: {"state_dict": prefixed(worse(state), "model.") | prefixed(state, "ema_model.module.")},
        lambda state: {"student": worse(state), "teacher": prefixed(state, "backbone.")},
        lambda state: {"checkpoint": {"model": {"state_dict": state}}},
    ],
)
def test_tensors_are_found_below_the_usual_names(pack, donor, tmp_path):
    torch.save(pack(donor), tmp_path / "donor.pth")
    assert are_those(built(tmp_path / "donor.pth"), donor)


@pytest.mark.parametrize("name", ["local-dir:{}", "{}", "{}/model.safetensors"])
def test_a_file_and_its_folder_are_alike(name, donor, tmp_path):
    safetensors.torch.save_file(donor, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert are_those(built(name.format(tmp_path)), donor)


def test_weights_of_which_no_name_fits_are_refused_with_three_of_each_side(donor, tmp_path):
    renamed = {f"layer_{number}": value for number, value in enumerate(donor.values())}
    torch.save(renamed, tmp_path / "other.pth")
    with pytest.raises(UserError) as refused:
        built(tmp_path / "other.pth")
    text = str(refused.value)
    assert ", 0 are in it with their shapes" in text and "at least 95%" in text
    first = next(iter(donor))
    assert f"the model has {first} " in text and "the weights have layer_0 " in text and "layer_2 " in text
    assert "layer_3 " not in text and "pretrained_by_order=true" in text


def test_order_and_shape_count_when_asked_for(donor, tmp_path):
    renamed = {f"layer_{number}": value for number, value in enumerate(donor.values()) if value.ndim}
    torch.save(renamed, tmp_path / "other.pth")
    backbone = built(tmp_path / "other.pth", pretrained_by_order=True)
    parameters = dict(backbone.net.named_parameters())
    assert all(torch.equal(value, donor[key]) for key, value in parameters.items())
    with pytest.raises(
        UserError, match=r"by order, conv1.1.weight 24 of the model would be layer_1 16 of the file"
    ):
        built(tmp_path / "other.pth", arch="resnet10t", pretrained_by_order=True)
    with pytest.raises(UserError, match="a file"):
        built("r160_in1k", pretrained_by_order=True)


TENSORFLOW = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def foreign(state, words, order):
    """Return a state under other names, the tensors of a module in another order."""
    modules = {}
    for key, value in state.items():
        if value.ndim:
            module, _, leaf = key.rpartition(".")
            modules.setdefault(module, []).append((words.get(leaf, leaf), value))
    return {
        f"_block_{number}.{leaf}": value
        for number, tensors in enumerate(modules.values())
        for leaf, value in (sorted(tensors) if order == "sorted" else tensors)
    }


@pytest.mark.parametrize(("words", "order"), [({}, "kept"), ({}, "sorted"), (TENSORFLOW, "sorted")])
def test_within_a_module_names_say_what_a_tensor_is(words, order, donor, tmp_path, capsys):
    torch.manual_seed(2)
    distinct = {key: torch.rand_like(value) if value.ndim else value for key, value in donor.items()}
    torch.save(foreign(distinct, words, order), tmp_path / "foreign.pth")
    backbone = built(tmp_path / "foreign.pth", pretrained_by_order=True)
    found = {key: value for key, value in backbone.net.state_dict().items() if value.ndim}
    assert all(torch.equal(value, distinct[key]) for key, value in found.items())
    told = capsys.readouterr().out
    assert f"{len(found)} tensors by order, _block_0." in told and "not used: _block_" in told


def test_an_order_that_makes_no_sense_is_refused_where_it_parts(donor, tmp_path):
    first, *_ = state = foreign(donor, {}, "kept")
    odd = {key.replace(".weight", ".bias") if key == first else key: value for key, value in state.items()}
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(
        UserError, match=r"conv1.0.weight 16x3x3x3 of the model would be _block_0.bias 16x3x3x3"
    ):
        built(tmp_path / "odd.pth", pretrained_by_order=True)


def test_more_than_a_classifier_left_over_is_refused(donor, tmp_path):
    state = foreign(donor, {}, "kept")
    more = {f"_more_{number}.weight": torch.zeros(3) for number in range(5)}
    torch.save(state | more, tmp_path / "deeper.pth")
    with pytest.raises(UserError, match="7 tensors are left over: _block_"):
        built(tmp_path / "deeper.pth", pretrained_by_order=True)


def test_by_order_the_first_convolution_follows_the_channels(donor, tmp_path):
    torch.save(foreign(donor, {}, "kept"), tmp_path / "foreign.pth")
    assert built(tmp_path / "foreign.pth", channels=1, pretrained_by_order=True).shape == (1, 32, 32)


def test_shapes_count_as_names_do(donor, tmp_path):
    wider = {key: torch.cat([value, value]) if value.ndim else value for key, value in donor.items()}
    torch.save(wider, tmp_path / "wider.pth")
    with pytest.raises(UserError, match="with their shapes"):
        built(tmp_path / "wider.pth")


def test_a_little_that_is_missing_is_told(donor, tmp_path, capsys):
    missing = next(key for key in donor if key.endswith("bias"))
    torch.save({key: value for key, value in donor.items() if key != missing}, tmp_path / "donor.pth")
    backbone = built(tmp_path / "donor.pth")
    assert f"1 tensors begin as without it: {missing}" in capsys.readouterr().out
    assert "state_dict" not in backbone.net.pretrained_cfg


def test_the_first_convolution_follows_the_channels(donor, tmp_path):
    torch.save(donor, tmp_path / "donor.pth")
    assert built(tmp_path / "donor.pth", channels=1).shape == (1, 32, 32)


def test_what_timm_itself_loads_is_checked_too(monkeypatch):
    other = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: other)
    with pytest.raises(UserError, match="pretrained=true: of"):
        TimmBackbone(arch="test_resnet", name="t", channels=3, size=32, pretrained=True)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_files_that_are_no_weights_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    np.save(tmp_path / "array.pth", np.zeros(3))
    (tmp_path / "two").mkdir()
    for name in ("a.pth", "b.pth"):
        (tmp_path / "two" / name).touch()
    for path, message in [
        ("list.pth", "holds a list"),
        ("two", "2 files of weights"),
        ("none", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            built(tmp_path / path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        built(tmp_path / "array.pth.npy")


def test_where_few_names_fit_the_set_stays_whole_for_timm():
    state = {"module.stem.weight": torch.zeros(2), "module.other": torch.zeros(3)}
    chosen, told = choose_state({"state_dict": state}, {"conv1.weight": torch.Size([2])})
    assert list(chosen) == ["stem.weight", "other"] and told == "state_dict"
