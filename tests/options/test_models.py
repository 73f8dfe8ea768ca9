"""Names of timm as options of model=."""

import subprocess
import sys

import pytest
import timm
from commands import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from mrl_experiments.options.models import near_models, offer_models, timm_names
from mrl_experiments.options.typed import replacement

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def nothing_offered(monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "repo", {**ConfigStore.instance().repo, "model": {}})


def composed(*arguments, conf=CONF):
    offer_models(arguments, conf)
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("train", [argument for argument in arguments if not argument.startswith("-")])


def test_the_names_are_timms():
    former = timm.models.get_deprecated_models()
    assert {*timm.list_models(), *former} <= timm_names()


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50.a1_in1k", "vit_base_patch16_224_in21k"])
def test_a_name_of_timm_is_a_model(name):
    ours, long = composed(f"model={name}"), composed("model=timm", f"model.arch={name}")
    assert OmegaConf.to_container(ours, resolve=True) == OmegaConf.to_container(long, resolve=True)
    assert ours.model.name == name


def test_names_of_a_sweep_are_models():
    offer_models(["-m", "model=resnet18,convnext_tiny"], CONF)
    assert set(ConfigStore.instance().repo["model"]) == {"convnext_tiny.yaml"}  # resnet18 has a file


def test_files_come_first(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/convnext_tiny.yaml").write_text("name: mine")
    for typed in (
        ["--config-dir", str(tmp_path)],
        [f"--config-dir={tmp_path}"],
        [f"hydra.searchpath=[file://{tmp_path}]"],
    ):
        offer_models([*typed, "model=convnext_tiny"], CONF)
        assert not ConfigStore.instance().repo["model"]


def test_a_name_that_nobody_knows_comes_with_near_ones():
    with pytest.raises(MissingConfigException) as missing:
        composed("model=resnt18")
    assert "model=resnet18" in replacement(str(missing.value), CONF)
    assert near_models("gpt_smal", CONF)[0] == "gpt_small"


def test_the_names_are_read_without_importing_timm():
    program = "import sys; from mrl_experiments.options.models import timm_names; timm_names(); "
    subprocess.run(
        [sys.executable, "-c", program + "assert not {'timm', 'torch'} & {*sys.modules}"], check=True
    )
