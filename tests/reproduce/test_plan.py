"""What the profiles of conf/reproduce ask for."""

from pathlib import Path

import pytest
from commands import ROOT
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from mrl_experiments.reproduce.plan import chains

CONF = ROOT / "conf"


@pytest.fixture(scope="module", params=["medium", pytest.param("full", marks=pytest.mark.slow)])
def plan(request):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return chains(OmegaConf.load(CONF / "reproduce" / f"{request.param}.yaml"), Path("nowhere"))


@pytest.mark.parametrize("method", ["slim", "slim_universal"])
def test_slimmable_networks_are_trained_embedded_and_evaluated_as_mrl_is(plan, method):
    ours, mrl = (
        next(chain for chain in plan if chain.run.name.startswith(f"{name}_resnet10t_kanji1k_s0"))
        for name in (method, "mrl")
    )
    assert [step.verb for step in ours.steps] == ["train.py", "embed.py", *["evaluate.py"] * 3]
    assert set(ours.steps[0].arguments) - set(mrl.steps[0].arguments) >= {"loss=slim"}
    common = {"seed=0", *(part for part in mrl.steps[0].arguments if part.startswith(("epochs=", "tag=")))}
    assert common <= set(ours.steps[0].arguments)
    products = {product.name for step in ours.steps for product in step.products}
    evaluated = {f"{name}-kanji1k-prefix.csv" for name in ("linear", "knn", "retrieval")}
    assert evaluated <= products
    folders = {Path(product).parent.name for product in ours.steps[1].products}
    assert folders == {"train", "val"}
