"""What the profiles ask for."""

import re
from pathlib import Path

import pytest
from commands import ROOT
from hydra import initialize_config_dir

from mrl_experiments.reproduce.plan import PROFILES, chains, read_profile

CONF = ROOT / "conf"


@pytest.fixture(scope="module", params=["medium", pytest.param("full", marks=pytest.mark.slow)])
def plan(request):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return chains(read_profile(PROFILES / f"{request.param}.yaml"), Path("nowhere"))


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


def products(plan):
    """What the runs of a plan leave: {run's name without its tag: names of result files}."""
    return {
        chain.run.name.removesuffix("_medium"): {path.name for step in chain.steps for path in step.products}
        for chain in plan
    }


@pytest.mark.parametrize("method", ["mrl", "mrl_e", "ff"])
def test_few_shots_streams_superclasses_and_trends_are_evaluated(plan, method):
    ours = products(plan)[f"{method}_resnet10t_kanji1k_s0"]
    assert {f"{name}-kanji1k-prefix.csv" for name in ("few_shot", "superclass", "trends")} <= ours
    assert "stream-kanji_stream-prefix.csv" in ours


@pytest.mark.slow
def test_full_holds_every_ablation_and_the_vision_transformer():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        profile = read_profile(PROFILES / "full.yaml")
        profile.seeds = [0]
        plan = chains(profile, Path("nowhere"))
    found = products(plan)
    recipes = {path.stem for path in (CONF / "experiment" / "ablation").glob("*.yaml")}
    trained = {
        name
        for chain in plan
        for part in chain.steps[0].arguments
        for name in re.findall(r"^experiment=.*\bablation/(\w+)", part)
    }
    assert recipes - trained == {"finetune_resnet50"}  # ImageNet's
    for choice in ("head", "last_conv", "last_2_convs", "last_block"):
        assert "linear-kanji1k-prefix.csv" in found[f"mrl_resnet10t_kanji1k_unfrozen-{choice}_s0"]
    assert "knn-kanji200-random.csv" in found["ff_vit_tiny_kanji200_s0"]
    names = [chain.run.name for chain in plan]
    waiting = [chain for chain in plan if chain.source]
    assert len(waiting) == 4
    assert all(names.index(chain.source) < names.index(chain.run.name) for chain in waiting)
