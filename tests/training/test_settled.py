"""What pretrained weights want of their images, and what a run of before keeps."""

import composing
import pytest
import timm
from omegaconf import OmegaConf

from mrl_experiments.training import settled
from mrl_experiments.training.settled import settle


def composed(tmp_path, *overrides):
    options = ["model=timm", f"root={tmp_path}", "run_name=r", "data.root=images", *overrides]
    return composing.composed("train", *options)


@pytest.fixture
def typed(monkeypatch):
    return lambda *keys: monkeypatch.setattr(settled, "typed_keys", lambda: set(keys))


@pytest.mark.parametrize("pretrained", ["true", "augreg2_in21k_ft_in1k", "weights.safetensors"])
def test_weights_bring_their_own_preprocessing(pretrained, tmp_path, capsys):
    cfg = composed(
        tmp_path, "data=image_folder", "model.arch=vit_base_patch16_224", f"model.pretrained={pretrained}"
    )
    settle(cfg)
    told = capsys.readouterr().out
    assert cfg.data.augment.mean == [0.5] * 3 == cfg.data.augment.std and cfg.data.augment.center == 0.9
    assert "data.augment.mean=[0.5, 0.5, 0.5], as the pretrained weights want" in told
    assert "bicubic" in told


def test_a_folder_of_weights_says_what_they_want(tmp_path):
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.7}}')
    arch = "model.arch=vit_base_patch16_224"
    cfg = composed(tmp_path, "data=image_folder", arch, f"model.pretrained=local-dir:{tmp_path}")
    settle(cfg)
    assert cfg.data.augment.mean == [0.1, 0.2, 0.3] and cfg.data.augment.center == 0.7
    assert cfg.data.augment.std == [0.5] * 3  # as the architecture has it


def test_what_is_typed_stays_and_is_told(tmp_path, typed, capsys):
    typed("data.augment.mean")
    cfg = composed(
        tmp_path,
        *("data=image_folder", "model.arch=vit_base_patch16_224", "model.pretrained=true"),
        "data.augment.mean=[0.1,0.2,0.3]",
    )
    settle(cfg)
    assert cfg.data.augment.mean == [0.1, 0.2, 0.3] and cfg.data.augment.std == [0.5] * 3
    told = "data.augment.mean=[0.1, 0.2, 0.3] as given; the pretrained weights want [0.5, 0.5, 0.5]"
    assert told in capsys.readouterr().out


def test_without_weights_the_data_decide(tmp_path):
    cfg = composed(tmp_path, "data=image_folder", "model.arch=vit_base_patch16_224")
    before = OmegaConf.to_container(cfg.data.augment)
    settle(cfg)
    assert cfg.data.augment == before


def test_data_of_one_channel_get_one_value_and_stay_whole(tmp_path):
    cfg = composed(tmp_path, "data=digits", "model.arch=resnet18", "model.pretrained=a1_in1k")
    settle(cfg)
    wanted = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert cfg.data.augment.mean == pytest.approx([sum(wanted.mean) / 3]) and cfg.data.augment.center == 1.0


def test_a_stored_run_keeps_what_it_was_trained_with(tmp_path):
    options = ["data=image_folder", "model.arch=vit_base_patch16_224", "model.pretrained=true"]
    stored = composed(tmp_path, *options)
    before = OmegaConf.to_container(stored, resolve=True)
    del before["data"]["source"]["split"]
    path = tmp_path / "runs" / "r" / "config.yaml"
    path.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(before), path)
    (path.parent / "checkpoints").mkdir()
    (path.parent / "checkpoints/last.ckpt").touch()
    cfg = composed(tmp_path, *options)
    settle(cfg)
    assert cfg.data.augment == stored.data.augment and "split" not in cfg.data.source
