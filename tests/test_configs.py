"""Every option of every group of train.yaml composes and instantiates."""

from importlib.util import find_spec
from pathlib import Path

import composing
import numpy as np
import pytest
from captioned import write_table
from commands import ROOT, need_ffcv, run
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from mrl_experiments.build import build_method
from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run, run_name
from mrl_experiments.training.optim import TrainingLength
from mrl_experiments.training.trainer import build_loggers

CONF = ROOT / "conf"


def options(group: str) -> list[str]:
    return sorted(
        str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")
    )


def composed(*overrides: str):
    return composing.composed("train", *overrides)


def method_of(cfg, size=32):
    return build_method(cfg, **inputs(cfg.model, size), num_classes=7)


def inputs(model, size):
    """Return what a model must know of its data: of images, of text, of both, or of vectors."""
    if "kind" in model:
        return {"width": 64}
    if "layers" in model:
        return {"vocabulary": 300, "length": 8, "causal": int(model.name.startswith("gpt"))}
    text = {"vocabulary": 300, "length": 8, "pad": 2} if "text" in model else {}
    return {"channels": 1, "size": size, **text}


MODULE = ["model.name=mine", "model.module._target_=torch.nn.Flatten"]  # its features are the pixels


@pytest.mark.parametrize("option", options("model"))
def test_models(option):
    one_layer = ["++model.options.depth=1"] if option.startswith("vit") else []
    arch = {"timm": ["model.arch=test_vit"], "module": MODULE}.get(option, one_layer)
    cfg = composed("data=digits", f"model={option}", *arch)
    method = method_of(cfg, size=224 if "vit" in option else 32)
    assert method.backbone.width == method.spec.dims[-1]


@pytest.mark.parametrize("option", options("loss"))
def test_losses_and_that_they_share_their_keys(option):
    cfg = composed("data=digits", f"loss={option}")
    assert method_of(cfg).spec.dims[-1] == 512
    assert {"name", "dim", "dims", "weights", "label_smoothing"} <= set(cfg.loss)


@pytest.mark.parametrize("option", options("optim"))
def test_optimizers(option):
    cfg = composed("data=digits", f"optim={option}")
    optimizer, _ = construct(cfg.optim)(method_of(cfg), TrainingLength(10, 2, 64))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0, cfg.optim.weight_decay}
    assert set(cfg.optim) >= set(composed("data=digits", "optim=sgd_cyclic").optim)


@pytest.mark.parametrize("option", options("trainer"))
def test_trainers(option, tmp_path):
    cfg = composed("data=digits", f"trainer={option}", "logger=csv")
    run = Run(tmp_path)
    make = instantiate(cfg.trainer, max_epochs=3)
    if option == "gpu":
        import torch

        if not torch.cuda.is_available():
            with pytest.raises(Exception, match="no GPU"):
                make(run=run, loggers=[])
            return
    assert make(run=run, loggers=build_loggers(cfg, run)).max_epochs == 3


@pytest.mark.parametrize("option", options("logger"))
def test_loggers(option, tmp_path):
    cfg = composed("data=digits", f"logger={option}")
    if option == "tensorboard" and not any(map(find_spec, ("tensorboard", "tensorboardX"))):
        with pytest.raises(UserError, match="pip install"):
            build_loggers(cfg, Run(tmp_path))
        return
    assert build_loggers(cfg, Run(tmp_path))[0].name == tmp_path.name


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A tree of 2 classes x 6 small photographs, in train and val."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            (root / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of text files that repeat enough words for a vocabulary."""
    root = tmp_path_factory.mktemp("texts")
    for number in range(20):
        words = [f"word{number * k % 97}" for k in range(400)]
        (root / f"{number}.txt").write_text(" ".join(words))
    return root


NEED_FILES = {  # and what else cannot be left open
    "fluid": ["data.source.sequence=sequence5.npy"],
    "objectnet": ["data.source.mapping=mapping.json"],
    **{name: [] for name in ("imagenet4k", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_v2")},
}


@pytest.mark.parametrize("option", sorted(NEED_FILES))
def test_data_that_lies_elsewhere_asks_for_it(option):
    cfg = composed(f"data={option}", *NEED_FILES[option])
    with pytest.raises(UserError, match=r"data\.(root|source)"):
        construct(cfg.data)
    assert set(cfg.data) == set(composed("data=digits").data)


@pytest.mark.parametrize("option", sorted({*options("data")} - {*NEED_FILES}))
def test_data(option, photographs, texts, tmp_path):
    if option == "vectors":
        np.save(tmp_path / "base.npy", np.random.default_rng(0).standard_normal((200, 6)))
        data = construct(composed(f"data={option}", f"data.base={tmp_path / 'base.npy'}").data)
        assert data.inputs == {"width": 6} and data.num_classes == 0
        return
    overrides = [f"data.root={photographs}"] if option in ("image_folder", "imagenet") else []
    if option == "image_text_folder":
        overrides = [f"data.root={write_table(tmp_path, images=2)}", "data.vocabulary=280"]
    if option in ("text_folder", "python_stdlib"):
        overrides = [f"data.root={texts}", "data.vocabulary=280"] if option == "text_folder" else []
        data = construct(composed(f"data={option}", *overrides).data)
        assert {"vocabulary", "length", "causal"} == set(data.inputs)
        return
    if option == "imagenet_betons":
        need_ffcv()
        beton = composed_beton(photographs)
        overrides = [f"data.betons.train={beton}", f"data.betons.val={beton}"]
    if option.startswith("kanji") and not Path("/usr/share/edict/kanjidic").exists():
        pytest.skip("the Kanji fonts and dictionary are not installed")
    cfg = composed(f"data={option}", *overrides)
    data = construct(cfg.data)
    assert data.num_classes >= 2 and data.channels in (1, 3) and data.size > 0
    own = {"tokenizer", "vocabulary", "length"} if "tokenizer" in cfg.data else set()
    assert set(cfg.data) == set(composed("data=digits").data) | own


def composed_beton(photographs):
    data = construct(composed("data=image_folder", f"data.root={photographs}", "data.loader=ffcv").data)
    return data.samples("train")


@pytest.mark.parametrize("option", options("experiment"))
def test_experiments_compose_and_name_their_run(option, photographs):
    cfg = composed(f"experiment={option}", f"data.root={photographs}")
    assert run_name(cfg)
    assert OmegaConf.to_container(cfg, resolve=True)
    assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize("option", ["paper/table01"])
def test_a_tables_recipe_is_the_papers_training_and_builds(option, photographs):
    small = [f"data.root={photographs}", "model.arch=resnet10t", "data.size=32"]
    cfg, base = (composed(f"experiment={name}", *small) for name in (option, "paper/resnet50_imagenet"))
    assert cfg == base
    data = construct(cfg.data)
    method = build_method(cfg, channels=data.channels, size=data.size, num_classes=data.num_classes)
    assert method.spec.dims == (8, 16, 32, 64, 128, 256, 512)
    construct(cfg.optim)(method, TrainingLength(10, cfg.epochs, 64))


@pytest.mark.parametrize(
    ("option", "arch", "size", "dims", "lr"),
    [
        ("paper/table04", "vit_base_patch16_224", 224, (12, 24, 48, 96, 192, 384, 768), 1e-3),
        ("vit_tiny_kanji", "vit_tiny_patch16_224", 32, (12, 24, 48, 96, 192), 5e-4),
    ],
)
def test_a_vision_transformers_sizes_begin_at_12(option, arch, size, dims, lr, photographs):
    cfg = composed(f"experiment={option}", f"data.root={photographs}", "++model.options.depth=1")
    assert (cfg.model.arch, cfg.data.size or size, cfg.data.resolution) == (arch, size, None)
    method = method_of(cfg, size)
    assert method.spec.dims == dims
    optimizer, _ = construct(cfg.optim)(method, TrainingLength(10, cfg.epochs, cfg.optim.lr_images))
    assert optimizer.defaults["lr"] == lr


@pytest.mark.slow
def test_a_tables_recipe_sweeps_its_methods(photographs, tmp_path):
    tiny = ["model.arch=test_resnet", "data.size=32", "data.resolution=null", "epochs=1", "trainer=cpu"]
    where = [
        f"data.root={photographs}",
        f"root={tmp_path}",
        *("data.batch_size=4", "data.loader=torch", "data.workers=1", "trainer.limit_train_batches=2"),
        "logger=csv",
        "model.name=tiny",
    ]
    done = run("train.py", "-m", "experiment=paper/table01", *tiny, *where)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "mrl_tiny_imagenet_s0",
        "mrl_e_tiny_imagenet_s0",
    }


def test_the_papers_recipe_is_section_1(photographs):
    cfg = composed("experiment=paper/resnet50_imagenet", f"data.root={photographs}")
    assert (cfg.epochs, cfg.optim.lr, cfg.optim.lr_images, cfg.optim.weight_decay) == (40, 0.425, 1024, 1e-4)
    assert (cfg.model.arch, cfg.model.blurpool, cfg.loss.label_smoothing) == ("resnet50", True, 0.1)
    assert OmegaConf.to_container(cfg.data.resolution) == {
        "start": 160,
        "end": 192,
        "start_epoch": 29,
        "end_epoch": 34,
    }


@pytest.mark.parametrize("typed", ["+data.nonsense=1", "data.resolution={nonsense: 1}", "+loss.nonsense=1",
                                   "+optim.nonsense=1", "+model.nonsense=1"])  # fmt: skip
def test_an_option_that_a_class_has_not_is_one_clear_error(typed):
    cfg = composed("data=digits", "model.arch=test_resnet", typed)
    group = typed.lstrip("+").partition(".")[0]
    with pytest.raises(UserError, match="nonsense") as refused:
        construct(cfg[group])
    assert cfg[group]["_target_"] in refused.value.problem and refused.value.remedy


def test_what_a_configuration_names_gets_plain_lists_and_mappings():
    made = construct(OmegaConf.create({"_target_": "builtins.dict", "a": [1, {"b": [2]}], "c": {"d": 3}}))
    assert type(made["a"]) is type(made["a"][1]["b"]) is list and type(made["c"]) is dict
