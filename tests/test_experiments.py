"""Every recipe of conf/experiment trains two steps and is validated, on small data in place of its own."""

import json

import captioned
import composing
import pytest
from commands import ROOT

from mrl_experiments.build import build_method
from mrl_experiments.runs import run_of
from mrl_experiments.training.finetuning import freeze
from mrl_experiments.training.train import train

EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "conf/experiment").with_suffix(""))
    for path in (ROOT / "conf/experiment").rglob("*.yaml")
)
STEPS = [
    *(
        "trainer=cpu",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "trainer.progress=false",
    ),
    *("logger=csv", "epochs=1"),
]
DIGITS = [
    *("data=digits", "data.batch_size=8", "data.loader=torch", "data.workers=1"),
    *("data.size=null", "data.resolution=null"),
]
NARROW = ["+model.options.channels=[8,8,8,32]"]  # the same layers, of few channels


def composed(*overrides: str):
    return composing.composed("train", *STEPS, *overrides)


def small(experiment: str, folder) -> list[str]:
    """Return what makes a recipe quick: other data, and its model with few channels but its layers' names."""
    cfg = composed(f"experiment={experiment}")
    model = cfg.model
    if "masked" in cfg.data:
        return text_options(folder)
    if model.name == "dual_encoder":
        return captioned.options(captioned.write_table(folder, images=4))
    if model.arch.startswith("resnet"):
        return [*DIGITS, *NARROW]
    return [*DIGITS, "model.arch=test_vit", "model.options={}"]


def text_options(folder) -> list[str]:
    """Write files that fill a few sequences in each split, and return the options that read them."""
    (folder / "text").mkdir()
    for number in range(20):
        text = f"The {number}th of twenty files. " * 40
        (folder / "text" / f"{number}.txt").write_text(text, encoding="utf-8")
    data = [f"data.root={folder / 'text'}", f"data.cache={folder / 'cache'}", "data.batch_size=4"]
    return ["data=text_folder", *data, "data.vocabulary=280", "data.length=16", "model.width=16"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_trains_two_steps(experiment, tmp_path):
    wanted = [f"root={tmp_path}", *small(experiment, tmp_path)]
    cfg = composed(f"experiment={experiment}", *wanted)
    if cfg.init_from:
        same = [f"model.blurpool={cfg.model.blurpool}", f"loss.recipe={cfg.loss.recipe}"]
        source = composed("loss=ff", f"model={cfg.model.name}", *wanted, *same)
        train(source)
        cfg.init_from = run_of(source).name
    train(cfg)
    run = run_of(cfg)
    assert (cfg.label or "").replace("/", "-") in run.name
    validation = json.loads(run.finished.read_text())["validation"]
    assert validation and all(0 <= value["top1"] <= 1 for value in validation.values())


@pytest.mark.parametrize("recipe", ["finetune", "finetune_resnet50"])
@pytest.mark.parametrize(
    ("choice", "convolutions"),
    [("head", 0), ("last_conv", 1), ("last_2_convs", 2), ("last_block", None)],
)
def test_fine_tuning_trains_the_head_and_what_its_choice_says(recipe, choice, convolutions):
    cfg = composed(f"experiment=ablation/{recipe}", f"unfreeze={choice}", *NARROW)
    method = build_method(cfg, channels=1, size=32, num_classes=3)
    freeze(method, cfg.train_only)
    trained = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    assert set(trained) >= {name for name, _ in method.named_parameters() if name.startswith("head.")}
    backbone = [name for name in trained if name.startswith("backbone.")]
    assert all(name.startswith(("backbone.net.layer4.0.", "backbone.net.layer4.2.")) for name in backbone)
    layers = sorted({name.split(".")[4] for name in backbone} - {"downsample"})
    of_block = 2 if recipe == "finetune" else 3
    numbers = range(of_block, 0, -1)[:convolutions]
    assert layers == sorted([f"bn{n}" for n in numbers] + [f"conv{n}" for n in numbers])


@pytest.mark.parametrize(
    ("ablation", "dims", "weights"),
    [
        ("weights_8boost", (8, 16, 32, 64, 128), (2, 1, 1, 1, 1)),
        ("weights_8_16boost", (8, 16, 32, 64, 128), (2, 1.5, 1, 1, 1)),
        ("first_4", (4, 8, 16, 32, 64, 128), (1,) * 6),
        ("first_6", (6, 8, 16, 32, 64, 128), (1,) * 6),
        ("spacing_uniform", (8, 20, 32, 44, 56, 68, 80, 92, 104, 116, 128), (1,) * 11),
    ],
)
def test_an_ablation_combines_with_any_other_recipe(ablation, dims, weights):
    cfg = composed(f"experiment=[paper/resnet50_imagenet,ablation/{ablation}]", *DIGITS, *NARROW)
    method = build_method(cfg, channels=1, size=32, num_classes=3)
    assert (method.spec.dims, method.spec.weights) == (dims, weights)
    assert cfg.optim.lr == 0.425 and cfg.model.blurpool
