"""The table of options is whole, and its kinds refuse what they should."""

import itertools
import math
from pathlib import Path

import composing
import pytest
from commands import ROOT
from omegaconf import DictConfig, OmegaConf, open_dict

from mrl_experiments.errors import UserError
from mrl_experiments.names import LONGEST
from mrl_experiments.options.check import check, tree_of
from mrl_experiments.options.kinds import PART, Number, Option, Whole
from mrl_experiments.options.table import COMMANDS, EVALUATIONS, SEED
from mrl_experiments.options.table import GROUPS as GROUPS_OF_OPTIONS
from mrl_experiments.options.typed import quoted

CONF = ROOT / "conf"
ROOTS = {
    "train": ["model", "loss", "data", "optim", "batch_augment", "trainer", "callbacks", "logger"],
    "embed": ["data", "trainer"],
    "evaluate": ["data", "evaluation", "reduction"],
    "generate": [],
    "export": [],
    "serve": [],
    "report": [],
}
GROUPS = sorted({group for groups in ROOTS.values() for group in groups})
GIVEN = {  # what the shipped files leave open
    "embed": ["run=x"],
    "generate": ["run=x"],
    "export": ["run=x"],
    "serve": ["run=x"],
    "vectors": ["data.base=x"],
    "timm": ["model.arch=resnet18"],
    "module": ["model.name=mine", "model.module._target_=torch.nn.Flatten"],
    "fluid": ["data.source.sequence=x"],
    "objectnet": ["data.source.mapping=x"],
    "imagenet_betons": ["data.betons.train=x", "data.betons.val=y"],
}


def composed(command: str, *overrides: str) -> DictConfig:
    return composing.composed(command, *GIVEN.get(command, []), *overrides)


def checked(command: str, *overrides: str) -> DictConfig:
    cfg = composed(command, *map(quoted, overrides))
    check(cfg, command)
    return cfg


def every_choice() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each command choices of one file a group, in which every file is chosen."""
    return [
        (command, [choice for choice in choices if choice])
        for command, groups in ROOTS.items()
        for choices in itertools.zip_longest(
            *([(group, path.stem) for path in sorted((CONF / group).glob("*.yaml"))] for group in groups)
        )
    ]


def unknown(node, tree, path="") -> list[str]:
    """Return the options of a plain configuration that the table does not know."""
    if isinstance(tree, Option):
        return []
    if not isinstance(node, dict | list):
        return [path] if tree is None else []
    children = node.items() if isinstance(node, dict) else enumerate(node)
    inner = tree or {}
    return [
        found
        for key, child in children
        if str(key)[0] != "_"
        for found in unknown(child, inner.get(str(key), inner.get("*")), f"{path}.{key}".removeprefix("."))
    ]


@pytest.mark.parametrize(
    ("command", "choices"),
    every_choice(),
    ids=lambda part: "-".join(f"{group}={name}" for group, name in part) if isinstance(part, list) else part,
)
def test_every_option_of_every_file_has_an_entry_and_a_default_that_fits(command, choices):
    given = [text for _, option in choices for text in GIVEN.get(option, [])]
    cfg = composed(command, *(f"{group}={option}" for group, option in choices), *given)
    assert unknown(OmegaConf.to_container(cfg), tree_of(cfg, command)) == []
    check(cfg, command)


@pytest.mark.parametrize("command", ROOTS)
def test_every_option_of_the_root_files_has_an_entry_with_a_meaning(command):
    cfg = composed(command)
    assert unknown(OmegaConf.to_container(cfg), tree_of(cfg, command)) == []
    check(cfg, command)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_fits(path):
    name = str(path.relative_to(CONF / "experiment").with_suffix(""))
    cfg = checked("train", f"experiment={name}", "data.root=/x")
    assert unknown(OmegaConf.to_container(cfg), tree_of(cfg, "train")) == []


@pytest.mark.parametrize("options", [*COMMANDS.values(), *GROUPS_OF_OPTIONS.values(), *EVALUATIONS.values()])
def test_every_entry_has_a_meaning_and_every_number_a_range_and_what_it_counts(options):
    plain = ("scale", "jpeg_quality", "first", "port")  # a factor, a grade, a place, an address
    for key, option in options.items():
        assert option.meaning, key
        if isinstance(option, Number):
            assert max(option.low, option.above) > -math.inf, key
        if isinstance(option, Whole) and option.high != SEED and key.rpartition(".")[2] not in plain:
            assert option.unit, key


TRAIN = [
    *(f"epochs={value}" for value in ("-1", "0", "1.5", "abc", "null", "true", "[1]", "1e7", "nan")),
    *(f"optim.lr={value}" for value in ("abc", "nan", "inf", "-1", "0", "true", "'0.1'", "null")),
    *("optim.momentum=1", "optim.momentum=-0.1", "optim.weight_decay=-1", "optim.warmup_epochs=-1"),
    *("optim.nesterov=1", "optim.lr_images=0", "optim.lr_images=abc"),
    *(f"data.batch_size={value}" for value in ("0", "-1", "1.5", "abc", "null")),
    *(f"data.workers={value}" for value in ("-1", "100000", "1.5", "abc")),
    *("data.size=0", "data.size=abc", "data.loader=quick", "data.seed=-1", "data.augment=null"),
    *("data.augment.crop=[0.5]", "data.augment.crop=[0,1]", "data.augment.mean=[2]", "data.augment.std=[0]"),
    *("data.augment.flip=yes", "data.augment.center=0", "data.augment.shift=1.5"),
    *("data.resolution=5", "data.batch_size=1e30"),
    *("epochs={a: 1}", "data.seed=abc"),
    *("data.storage.default.mode=png", "data.storage.default.jpeg_quality=101", "data.cache=null"),
    *(f"seed={value}" for value in ("abc", "-1", "1099511627776", "null", "0.5", "''")),
    *(f"trainer.devices={value}" for value in ("0", "-2", "[]", "abc", "null", "1.5")),
    *("trainer.precision=foo", "trainer.precision=8", "trainer.accumulate_grad_batches=0"),
    *("trainer.num_nodes=0", "data.augment=5"),
    *("trainer.gradient_clip_val=-1", "trainer.limit_train_batches=0", "trainer.limit_train_batches=0.0"),
    *("trainer.limit_train_batches=1.5", "trainer.limit_val_batches=-1", "trainer.limit_val_batches=2.0"),
    *("trainer.log_every_n_steps=0", "trainer.checkpoint_minutes=-1", "trainer.checkpoint_minutes=nan"),
    *("trainer.progress=1", "trainer.accelerator=quantum", "logger.wandb.mode=on", "trainer.max_time=5"),
    *(f"loss.dims={value}" for value in ("'8,16'", "[]", "[0]", "[-8]", "[16,8]", "[8,8]", "[8.5]", "[a]")),
    *("loss.weights=[]", "loss.weights=[0]", "loss.weights=[-1]", "loss.weights={8: -1}"),
    *("loss.dims=abc", "loss.weights=[nan]"),
    *(f"loss.weights_rise={value}" for value in ("-0.1", "1.5", "nan", "abc")),
    *("loss.weights=abc", "loss.label_smoothing=1.5", "loss.label_smoothing=1", "loss.label_smoothing=-0.1"),
    *("loss.dim=0", "loss.dim=-1", "loss.dim=abc", "loss.dim=1.5"),
    *("init_from=../x", "init_from=a/b", "train_only=[]", "train_only={a: b}", "debug=yes", "root=''"),
    *(f"run_name={value}" for value in ("../x", "/tmp/x", ".", "..", ".x", "'a*'", "'a\tb'", "x" * 201)),
    *("tag=/../x", "tag='a\\\\b'", "label='a\nb'", "data.name=../x", "data.name=''", "loss.name=.."),
    *("model.name=a/b", "root=null"),
    *("epochs=${nothing}", "seed=${oc.env:NOT_SET_HERE}", "model.options=5", "model.pretrained=[a]"),
]  # fmt: skip
OTHERS = [
    *(("train", f"trainer.devices={value}", "trainer=cpu") for value in ("[0]", "99", "'0,1'")),
    ("train", "loss.temperature=0", "loss=infonce"),
    ("train", "loss.cache_chunk=0", "loss=infonce"),
    *(
        ("train", f"loss.widths={widths}", "loss=slim")
        for widths in ("[1.0,0.5]", "[0.5,1.5]", "[0.5,0.5,1.0]", "[0,1.0]", "[half,1.0]", "[1.0]", "[]", "1")
    ),
    ("train", "loss.mode=any", "loss=slim"),
    ("train", "optim.nesterov=true", "optim=adamw_cosine"),
    ("train", "data.resolution=[1]", "data=digits"),
    ("train", "optim.nesterov=true", "optim.momentum=0"),
    ("train", "loss.weights=[1]", "loss.dims=[8,16]"),
    ("train", "data.masked=1.5", "data=python_stdlib"),
    ("train", "data.vocabulary=0", "data=python_stdlib"),
    ("train", "data.length=0", "data=kanji_captions"),
    ("train", "data.length=2.5", "data=kanji_captions"),
    ("train", "model.width=0", "model=dual_encoder"),
    ("train", "data.source.val_share=0", "data=digits"),
    ("train", "data.source.val_share=1", "data=digits"),
    ("train", "model.layers=0", "model=bert_small"),
    ("embed", "splits=[../val]"),
    ("embed", "splits=[]"),
    ("embed", "tta=rotate"),
    ("embed", "overwrite=1"),
    ("embed", "run=''"),
    ("evaluate", "names.seed=abc"),
    ("evaluate", "names.dims=[0]"),
    ("evaluate", "names.split=a/b"),
    ("evaluate", "names.split=a@b"),
    ("evaluate", "names.dataset=.."),
    ("evaluate", "names.model=''"),
    ("evaluate", "queries=[../x]"),
    ("evaluate", "variant=../x"),
    *(("evaluate", f"database={value}", "run=x") for value in ("../x", "/tmp/x", "a/../b", "a/b/c", "..")),
    ("train", "trainer.check_val_every_n_epoch=0"),
    ("train", "trainer.max_steps=0"),
    ("train", "callbacks.best.mode=most", "callbacks=best"),
    ("train", "callbacks.ema.decay=2", "callbacks=ema"),
    ("train", "callbacks.best=5", "callbacks=best"),
    ("embed", "weights=best"),
    ("evaluate", "dims=[0]"),
    ("evaluate", "dims=abc"),
    ("evaluate", "reduction.draws=0"),
    *(("evaluate", f"evaluation.k={k}", "evaluation=knn") for k in ("0", "[-1]", "abc", "[]", "[1.5]")),
    *(
        ("evaluate", "evaluation.k=[0,3]", f"evaluation={name}")
        for name in ("retrieval", "cross_modal", "agreement")
    ),
    ("evaluate", "evaluation.k=0", "evaluation=examples"),
    ("evaluate", "evaluation.max_queries=0", "evaluation=funnel"),
    ("evaluate", "evaluation.timed=0", "evaluation=funnel"),
    *(("evaluate", f"evaluation.k={k}", "evaluation=funnel") for k in ("0", "[10]", "null")),
    ("evaluate", "evaluation.cascades=[200,100]", "evaluation=funnel"),
    ("evaluate", "evaluation.cascades=[[100,200]]", "evaluation=funnel"),
    ("evaluate", "evaluation.shortlist=5", "evaluation=adaptive_retrieval"),
    ("evaluate", "evaluation.lengths=[5]", "evaluation=adaptive_retrieval"),
    ("evaluate", "evaluation.indexes.flat.coarse_dim=0", "evaluation=adaptive_retrieval"),
    ("evaluate", "evaluation.max_latency=1", "evaluation=auto_retrieval"),
    ("evaluate", "evaluation.fit_share=1", "evaluation=adaptive_classification"),
    ("evaluate", "evaluation.splits=0", "evaluation=adaptive_classification"),
    ("evaluate", "evaluation.policies.1.drops=[2]", "evaluation=adaptive_classification"),
    ("evaluate", "evaluation.policies=abc", "evaluation=adaptive_classification"),
    ("evaluate", "evaluation.policies.0.thresholds=[-1]", "evaluation=adaptive_decoding"),
    ("evaluate", "evaluation.shots=[0]", "evaluation=few_shot"),
    ("evaluate", "evaluation.shots=[]", "evaluation=few_shot"),
    ("evaluate", "evaluation.draws=1", "evaluation=few_shot"),
    ("evaluate", "evaluation.imbalance=0.5", "evaluation=stream"),
    ("evaluate", "evaluation.solver.lr=0", "evaluation=probe_sgd"),
    ("evaluate", "evaluation.solver.iterations=0", "evaluation=probe"),
    ("evaluate", "evaluation.quantiles=[101]", "evaluation=trends"),
    ("evaluate", "evaluation.present_classes_only=null"),
    *(("export", typed) for typed in ("format=x", "dim=0", "dim=[8,x]", "output=x", "repo=a/b/c", "int8=2")),
    *(
        ("serve", typed)
        for typed in ("port=70000", "wait=-1", "recall=1", "device=tpu", "api_key=a-b", "inputs=0")
    ),
    ("generate", "tokens=0"),
    ("generate", "temperature=-1"),
    ("generate", "temperature=inf"),
    ("generate", "temperature=nan"),
    ("generate", "adaptive=1.5"),
    ("generate", "adaptive=no"),
    ("generate", "dim=0"),
    ("generate", "prompt={a: b}"),
    ("report", "rows=[]"),
    ("report", "out=''"),
    ("report", "counterparts=5"),
]


@pytest.mark.parametrize(("command", "typed", "others"), [
    *(("train", typed, ()) for typed in TRAIN), *((command, typed, rest) for command, typed, *rest in OTHERS),
])  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_name(command, typed, others):
    with pytest.raises(UserError) as raised:
        checked(command, *others, typed)
    assert typed.partition("=")[0].lstrip("+") in raised.value.problem
    assert raised.value.expected and "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "typed", "value"),
    [
        ("train", "train_only=head", ["head"]),
        ("train", "loss.dims=16", [16]),
        ("train", "epochs=10.0", 10),
        ("train", "tag=2", "2"),
        ("train", "tag='#2'", "#2"),
        ("train", "label=unfrozen/head", "unfrozen/head"),
        ("train", "optim.lr=1", 1),
        ("train", "data.workers=0", 0),
        ("train", "trainer.limit_val_batches=0", 0),
        ("train", "trainer.limit_train_batches=1", 1),
        ("train", "trainer.devices=auto", "auto"),
        ("train", "trainer.precision=32", 32),
        ("train", "trainer.checkpoint_minutes=inf", float("inf")),
        ("train", "loss.weights={8: 2}", {8: 2}),
        ("train", "data.name=données été", "données été"),
        ("train", "data.name=हिन्दी", "हिन्दी"),
        ("train", "model.pretrained=true", True),
        ("embed", "splits=val", ["val"]),
        ("embed", "run=2024", "2024"),
        ("evaluate", "database='*_text'", "*_text"),
        ("evaluate", "database=imagenet/train", "imagenet/train"),
        ("evaluate", "names.model=openai/clip", "openai/clip"),
        ("report", "rows=results/*.csv", ["results/*.csv"]),
    ],
)
def test_what_fits_is_written_as_the_program_uses_it(command, typed, value):
    assert OmegaConf.select(checked(command, typed), typed.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        *(("train", key) for key in ("root", "data.root", "data.cache", "model.pretrained")),
        ("train", "data=text_folder data.tokenizer"),
        ("train", "data=imagenet_betons data.betons.val=x data.betons.train"),
        ("train", "data=objectnet data.source.mapping"),
        ("train", "data=imagenet_a data.source.classes"),
        ("train", "data=fluid data.source.sequence"),
        *(("evaluate", key) for key in ("root", "embeddings", "database", "train")),
        ("evaluate", "evaluation=superclass evaluation.mapping"),
        *(("report", key) for key in ("rows", "out", "root")),
    ],
)
def test_the_home_folder_is_meant_by_a_tilde_in_every_path(command, typed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    *others, key = typed.split()
    value = OmegaConf.select(checked(command, *others, f"{key}='~/x y'"), key)
    assert value in ("/home/somebody/x y", ["/home/somebody/x y"])
    other = checked(command, *others, f"{key}='x/~y'")
    assert OmegaConf.select(other, key) in ("x/~y", ["x/~y"])


def test_all_that_does_not_fit_is_named_at_once():
    with pytest.raises(UserError, match="3 options do not fit") as raised:
        checked("train", "epochs=0", "optim.lr=abc", "data.batch_size=-1")
    assert all(part in str(raised.value) for part in ("epochs=0", "optim.lr=abc", "data.batch_size=-1"))
    with pytest.raises(UserError) as raised:
        checked("train", "seed=abc")  # data.seed follows it
    assert "data.seed" not in str(raised.value)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"model\.arch is not given"):
        checked("train", "model=timm")
    with pytest.raises(UserError, match=r"data\.betons\.val is not given"):
        checked("train", "data=imagenet_betons", "data.betons.train=x")
    checked("evaluate", "data=fluid")  # which only reads the data's name


def test_keys_and_classes_of_the_users_own_pass(tmp_path: Path):
    checked("train", "+trainer.any_other=0", "+mine=-1", "+data.more=[1]")
    cfg = composed("train")
    with open_dict(cfg):
        cfg.optim = {"_target_": "mine.optimizer", "lr": "by hand", "name": "x/y"}
        cfg.loss.dims = {"_target_": "mrl_experiments.nesting.dims_from", "_partial_": True, "first": 4}
    check(cfg, "train")


def test_names_are_as_long_as_file_systems_take():
    checked("train", f"data.name={'x' * PART}", f"run_name={'x' * LONGEST}")
    with pytest.raises(UserError, match=r"data\.name"):
        checked("train", f"data.name={'é' * PART}")
