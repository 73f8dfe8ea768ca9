"""Run folders from others: nothing that their files name is run, resolved, written or deleted."""

import copy
import functools
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from commands import ROOT, TINY, run
from composing import composed
from hydra.utils import get_class
from omegaconf import OmegaConf

from mrl_experiments import stored, trust
from mrl_experiments.build import load_method, stored_data, trusted_config
from mrl_experiments.construct import construct
from mrl_experiments.data.artifact_cache import read_only_caches, reading_also
from mrl_experiments.data.images import torchvision_sets
from mrl_experiments.data.images.digits import Digits
from mrl_experiments.data.loaders.cache import Cache, default_workers
from mrl_experiments.embeddings import Embeddings, load
from mrl_experiments.errors import UserError
from mrl_experiments.locks import acquire
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.runs import Run, find_runs, run_lock
from mrl_experiments.search.neighbour_cache import neighbours
from mrl_experiments.stored import read_config, write_config
from mrl_experiments.trust import CONF, replace_cache, trusted

STORED = Path(__file__).parent / "stored_run"
NAME = "mrl_tiny_digits_s0"


@pytest.fixture
def folder(tmp_path):
    """A run as train.py left it before configurations had a checksum."""
    shutil.copytree(STORED, tmp_path / "runs" / NAME)
    return tmp_path / "runs" / NAME


def changed(folder: Path, **parts) -> Run:
    """Write other values into a run's configuration: data__source=... is data.source."""
    config = copy.deepcopy(stored_plain())
    for place, value in parts.items():
        put(config, place, value)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return Run(folder)


@functools.cache
def stored_plain():
    return yaml.safe_load((STORED / "config.yaml").read_text())


@functools.cache
def read_plain():
    return OmegaConf.to_container(stored.read_config(STORED / "config.yaml"))


def plain_with(place: str, value):
    config = copy.deepcopy(read_plain())
    put(config, place, value)
    return config


def put(config, place, value):
    *owners, key = place.split("__")
    for name in owners:
        config = config[name]
    config[key] = value


def system(mark: Path) -> dict[str, str]:
    return {"_target_": "sympy.sympify", "a": f"__import__('os').system('touch {mark}')"}


COMMANDS = {
    "embed": ["embed.py", f"run={NAME}", "root={root}", "splits=[val]"],
    "generate": ["generate.py", f"run={NAME}", "root={root}"],
    "init_from": ["train.py", "data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv",
                  f"init_from={NAME}", "root={root}", "tag=_new"],
    "gradcam": ["scripts/gradcam.py", NAME, "--root", "{root}"],
}  # fmt: skip


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_checkpoint_that_is_no_file_is_one_error_with_a_remedy(make, folder):
    (folder / "checkpoints" / "last.ckpt").unlink()
    make(folder / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt is a ") as refused:
        load_method(folder)
    assert refused.value.remedy


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b", "a\0"])
def test_names_that_are_none_are_refused(name, folder):
    with pytest.raises(UserError, match=r"checkpoint=.* cannot name a file"):
        Run(folder).checkpoint_at(name)
    with pytest.raises(UserError, match="matches no run"):
        find_runs(folder.parents[1], name)


def test_a_number_that_no_float_holds_is_refused(folder):
    with pytest.raises(UserError, match=r"epochs=1000.* 64 bits"):
        trusted_config(changed(folder, epochs=10**400))


@pytest.mark.parametrize("target", ["gone/last.ckpt", "last.ckpt"])
def test_a_checkpoint_that_is_a_link_to_nothing_is_named_and_no_reason_to_begin_anew(target, folder):
    run = Run(folder)
    run.checkpoint.unlink()
    run.checkpoint.symlink_to(target)
    with pytest.raises(UserError, match=r"last\.ckpt(: links that lead in a circle| is a link to gone/last)"):
        load_method(run)
    run.config_path.unlink()
    lock = run_lock(composed("train", *TINY, f"root={folder.parents[1]}"))
    with pytest.raises(UserError, match=r"has no config\.yaml beside it"), lock:
        pass


def test_no_module_of_the_folder_where_one_stands_is_run_unless_a_class_is_named(tmp_path):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "theirs.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')")
    for options, runs in (["trust=false"], False), (["+callbacks.mine._target_=mine.Callback"], True):
        command = [sys.executable, str(ROOT / "train.py"), "--cfg", "job", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "touched").exists() == runs


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["data", "model"])
def test_no_command_runs_what_a_stored_configuration_names(command, place, folder, tmp_path):
    mark = tmp_path / "touched"
    named = {**system(mark), "name": "digits", "augment": {"mean": [0.5], "std": [0.5]}}
    changed(folder, **{place: named})
    done = run(*(part.format(root=tmp_path) for part in COMMANDS[command]))
    assert not mark.exists()
    assert done.returncode == 2, done.stderr
    assert f"{place}._target_=sympy.sympify" in done.stderr and "trust=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "embeddings").exists()


PLACES = ["model__options", "data__augment", "data__source", "optim", "loss__dims", "trainer", "logger",
          "data__resolution", "data__betons", "extra", "seed_of"]  # fmt: skip
TARGETS = [
    {"_target_": "sympy.sympify", "a": "1"},
    {"_target_": "mrl_experiments.embeddings.create", "folder": "/tmp", "count": 1, "width": 1},
    {"_target_": "mrl_experiments.losses.slimmable.slim.Slim", "_partial_": True},  # ours, of another group
    {"_target_": "mrl_experiments.data.images.image_data.ImageData"},
    {"_target_": "os.system", "_args_": ["true"], "_partial_": True},
    {"_target_": ["os.system"]},
    {"_target_": None},
    {"_args_": ["true"]},
    {"_call_": "os.system"},
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("node", TARGETS, ids=lambda node: str(next(iter(node.values()))))
def test_what_conf_does_not_name_at_a_place_is_refused(place, node):
    for wrapped in (node, {"x": node}, [node], [1, [{"x": node}]]):
        config = OmegaConf.create(plain_with(place, wrapped))
        with pytest.raises(UserError, match=r"conf/ never has it|is no class that this project builds there"):
            trusted(config, STORED)


@pytest.mark.parametrize(
    "tricks",
    [
        {"_partial_": False},
        {"_partial_": "True"},
        {"_recursive_": False},
        {"_convert_": "all"},
        {"_args_": [1]},
    ],
)
def test_other_keys_of_hydra_are_those_of_conf(tricks, folder):
    model = stored_plain()["model"]
    with pytest.raises(UserError, match="as conf/ never has it"):
        trusted_config(changed(folder, model={**model, **tricks}))


GROUPS = ("data", "model", "loss", "optim", "trainer")
PARTS = [path for group in GROUPS for path in (CONF / group).glob("*.yaml")]


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_what_conf_names_is_allowed_where_it_names_it(path):
    group = path.parent.name
    node = OmegaConf.to_container(composed("train", f"{group}={path.stem}")[group])
    config = OmegaConf.create(plain_with(group, node))
    assert "_target_" in node
    assert trusted(config, path)[group].keys() == node.keys()


def test_a_base_is_allowed_where_options_inherit_from_it_alone():
    source = {"_target_": "mrl_experiments.data.kanji.kanji.Kanji"}  # named by conf/base/kanji.yaml
    assert trusted(OmegaConf.create(plain_with("data__source", source)), STORED)
    for place in ("base", "model"):
        with pytest.raises(UserError, match="is no class that this project builds there"):
            trusted(OmegaConf.create(plain_with(place, {"source": source})), STORED)


@pytest.mark.parametrize("new", sorted({moved["_target_"] for moved in stored.MOVED.values()}))
def test_what_moved_is_where_the_table_says(new):
    assert isinstance(get_class(new), type)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_experiments_name_is_allowed(path, folder):
    dims = (yaml.safe_load(path.read_text()).get("loss") or {}).get("dims")
    if dims:
        assert trusted_config(changed(folder, loss__dims=dims)).loss.dims == dims


class Own:
    """A user's own data."""

    def __init__(self, name, **_):
        self.name = name


def test_a_users_own_class_is_built_once_it_is_trusted(folder):
    own = f"{__name__}.Own"
    run = changed(folder, data={"_target_": own, "name": "digits"})
    with pytest.raises(UserError, match="trust=true") as refused:
        trusted_config(run)
    assert f"trust=[{own}]" in str(refused.value)
    with pytest.raises(UserError, match="is no class"):
        trusted_config(run, ["another.Class"])
    for allowed in (True, own, [own], ["another.Class", own]):
        with stored_data(run, trusted_config(run, allowed)) as data:
            assert isinstance(data, Own)


def test_a_run_made_of_files_has_no_model(tmp_path):
    names = {"loss": {"name": "external"}, "model": {"name": "a/b"}, "data": {"name": "x"}}
    write_config(tmp_path / "config.yaml", {**names, "seed": None, "external": True})
    with pytest.raises(UserError, match="was made of files"):
        load_method(Run(tmp_path), True)


def test_a_stored_configuration_is_not_built_from_unchecked(folder):
    with pytest.raises(ValueError, match="once it has been checked"):
        construct(Run(folder).config.data)


def test_a_moved_class_is_found_and_allowed_under_its_old_name(folder, monkeypatch):
    old, new = "mrl_experiments.old.Digits", "mrl_experiments.data.images.digits.Digits"
    run = changed(folder, data__source={"_target_": old, "scale": 4, "val_share": 0.2, "seed": 0})
    with pytest.raises(UserError, match="is no class"):
        trusted_config(run)
    monkeypatch.setitem(stored.MOVED, old, {"_target_": new})
    assert run.config.data.source._target_ == new
    with stored_data(run, trusted_config(run)) as data:
        assert data.source.splits == ("train", "val")
    monkeypatch.setitem(stored.MOVED, "old.Own", {"_target_": f"{__name__}.Own"})
    moved = changed(folder, data={"_target_": "old.Own", "name": "digits"})
    with stored_data(moved, trusted_config(moved, ["old.Own"])) as data:
        assert isinstance(data, Own)


def test_without_conf_nothing_is_allowed(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "CONF", tmp_path / "conf")
    trust._known.cache_clear()
    try:
        with pytest.raises(UserError, match="is not there"):
            trusted_config(Run(folder))
        assert trusted_config(Run(folder), True)
    finally:
        trust._known.cache_clear()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model__arch", "hf-hub:someone/model"),
        ("model__arch", "local-dir:outputs/runs/x"),
        ("model__options", {"checkpoint_path": "weights.pth"}),
        ("model__options", {"pretrained_cfg": {"file": "weights.pth"}}),
        ("model__options", {"pretrained_cfg_overlay": {"hf_hub_id": "x"}}),
        ("model__options", {"pretrained": True}),
        ("model__options", {"pretrained_strict": True}),
        ("model__options", {"cache_dir": "x"}),
        ("model__options", {"auto_map": {"AutoModel": "modeling.Model"}}),
        ("model__options", {"trust_remote_code": True}),
        ("model__options", {"attn_implementation": "flash_attention_2"}),
        ("model__options", {"_attn_implementation": "someone/kernel"}),
        ("model__options", {"architecture": "hf-hub:someone/model"}),
        ("model__options", {"deep": [{"use_pretrained_backbone": True}]}),
        ("model__options", {"names": ["a", "/etc/passwd"]}),
        ("model__text", {"type": "bert", "options": {"_name_or_path": "x"}}),
    ],
)
def test_options_that_bring_weights_or_code_are_refused(place, value, folder):
    run = changed(folder, **{place: value})
    with pytest.raises(UserError, match="can read weights or code from elsewhere"):
        trusted_config(run)
    assert trusted_config(run, True)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "resnetv2_50x1_bit"])
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".npz", ".safetensors", ""])
def test_of_weights_that_a_user_names_only_tensors_are_read(arch, suffix, tmp_path):
    mark, path = tmp_path / "touched", tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, weights=np.array([Evil(mark)], dtype=object))
    else:
        torch.save({"state_dict": Evil(mark)}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        TimmBackbone(arch=arch, name=arch, channels=3, size=64, pretrained=str(path))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay"])
def test_a_stored_configuration_reads_no_weights_besides_its_checkpoint(name, folder, tmp_path):
    mark = tmp_path / "touched"
    torch.save({"state_dict": Evil(mark)}, tmp_path / "weights.pth")
    value = str(tmp_path / "weights.pth")
    run = changed(folder, model__options={name: value if name == "checkpoint_path" else {"file": value}})
    with pytest.raises(UserError, match="can read weights"):
        load_method(run)
    pretrained = changed(folder, model__pretrained=value)
    assert load_method(pretrained)  # its weights are the checkpoint's
    assert not mark.exists()


def test_every_argument_of_timms_factory_has_been_thought_of():
    harmless = {"model_name", "scriptable", "exportable", "no_jit", "kwargs"}
    others = set(inspect.signature(timm.create_model).parameters) - harmless
    assert {name for name in others if "pretrained" not in name} <= trust.LOADING


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        ("- a\n- b\n", "it is no mapping"),
        ("just words", "it is no mapping"),
        (b"\xff\xfe\x00binary\x00", "utf-8"),
        ("data: [", "in line"),
        ("data: {name: digits}\n", "it says no model.name"),
        (BOMB, "the alias"),
        ("a: &a {b: *a}\n", "the alias"),
        ("a: " + "[" * 120_000 + "]" * 120_000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [true]\n", "the tag"),
        ("a: !!python/object/apply:pathlib.Path [x]\n", "the tag"),
        ("a: ${oc.env:HOME}\n", "would be resolved"),
        ("${oc.env:HOME}: a\n", "would be resolved"),
        ("a: x\na: y\n", "duplicate key"),
        ("a: " + "9" * 10_000, "damaged"),
        ("# " + "x" * (1 << 19), "bytes"),
    ],
)
def test_a_damaged_configuration_is_one_clear_error(content, problem, folder):
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=problem) as refused:
        read_config(path)
    assert str(path) in refused.value.problem and refused.value.remedy
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("where", ["data__source__seed", "label", "model__options"])
def test_no_resolver_is_asked_for_a_stored_value(where, folder, monkeypatch):
    monkeypatch.setenv("SECRET", "secret")
    run = changed(
        folder, **{where: {"x": "${oc.env:SECRET}"} if where == "model__options" else "${oc.env:SECRET}"}
    )
    with pytest.raises(UserError, match="would be resolved") as refused:
        run.config  # noqa: B018
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("place", ["data__name", "optim___target_", "model__arch", "label", "tag"])
def test_no_value_reaches_the_terminal_as_it_is(place, folder):
    escape = "\x1b[2J\n${:/" * 30
    with pytest.raises(UserError) as refused:
        trusted_config(changed(folder, **{place: escape if place == "tag" else escape.replace("$", "")}))
    assert "\x1b" not in str(refused.value) and len(str(refused.value).splitlines()) == 3
    assert len(str(refused.value)) < 1000


def test_a_folder_or_a_pipe_in_place_of_the_configuration(folder):
    path = folder / "config.yaml"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is no file"):
        read_config(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is no file"):
        read_config(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data__name", "../../x"),
        ("data__name", "/tmp/x"),
        ("data__name", ".."),
        ("data__name", "a\nb"),
        ("data__name", "x" * 300),
        ("data__name", {"a": 1}),
        ("data__name", None),
        ("loss__name", ["mrl"]),
        ("model__name", "tiny\n"),
        ("seed", "0; x"),
        ("seed", [1]),
        ("label", {"a": 1}),
    ],
)
def test_names_in_a_stored_configuration_name_nothing_else(place, value, folder):
    with pytest.raises(UserError, match=place.replace("__", ".")):
        changed(folder, **{place: value}).config  # noqa: B018


def test_what_was_written_is_read_and_a_change_is_noticed(tmp_path):
    plain = OmegaConf.to_container(stored.read_config(STORED / "config.yaml"))
    path = tmp_path / "config.yaml"
    write_config(path, plain)
    assert OmegaConf.to_container(read_config(path)) == plain
    text = path.read_text()
    path.write_text(text.replace("lr: 0.4", "lr: 0.5"))
    with pytest.raises(UserError, match="has changed since it was written") as refused:
        read_config(path)
    assert "delete the first line" in refused.value.remedy
    path.write_text(path.read_text().partition("\n")[2])
    assert read_config(path).optim.lr == 0.5
    with pytest.raises(UserError, match="may not contain"):
        write_config(path, {**plain, "tag": r"${x}"})
    with pytest.raises(UserError, match="seed is 'abc'"):
        write_config(path, {**plain, "seed": "abc"})


def test_a_folder_that_is_no_run_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml") as refused:
        _ = Run(tmp_path).config
    assert "train.py" in refused.value.expected and "restore the file" in refused.value.remedy


def test_folders_of_a_run_lie_in_it(folder, tmp_path):
    run = Run(folder)
    assert run.embeddings("digits", "val", "flip") == folder / "embeddings" / "digits" / "val@flip"
    for names in (("..", "val"), ("digits", "../../x"), ("/tmp", "val"), ("digits", "")):
        with pytest.raises(UserError, match="cannot name"):
            run.embeddings(*names)
    with pytest.raises(UserError, match="cannot name"):
        run.results("knn", "../x", "prefix")
    other = tmp_path / "mine" / "val"
    other.mkdir(parents=True)
    (folder / "embeddings").mkdir()
    (folder / "embeddings" / "digits").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="leads out of the run's folder"):
        run.embeddings("digits", "val")
    (folder / "results").symlink_to(folder / "results")
    with pytest.raises(UserError, match="results"):
        run.results("knn", "digits", "prefix")


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints", ".lock", "wandb"])
def test_training_writes_nowhere_that_links_in_a_runs_folder_lead(name, folder, tmp_path):
    (folder / "finished.json").unlink()
    if (folder / name).exists():
        (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "mine")
    config = OmegaConf.merge(read_config(folder / "config.yaml"), {"root": str(tmp_path), "run_name": NAME})
    with pytest.raises(UserError, match=f"{name} leads out of the run's folder"), run_lock(config):
        pass
    assert not (tmp_path / "mine").exists()


def test_a_checkpoint_is_not_continued_without_the_configuration_it_was_trained_with(folder, tmp_path):
    config = OmegaConf.merge(read_config(folder / "config.yaml"), {"root": str(tmp_path), "run_name": NAME})
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"last.ckpt has no config.yaml"), run_lock(config):
        pass
    assert not (folder / "config.yaml").exists()


@pytest.mark.parametrize("name", [".results.lock", "embeddings/digits/.val.lock"])
def test_a_lock_is_no_way_into_another_file(name, folder, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("kept")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for target in (mine, Path("/dev/zero"), tmp_path / "nothing"):
        (folder / name).symlink_to(target)
        with pytest.raises(UserError, match="is no file"), acquire(folder / name, "writes"):
            pass
        (folder / name).unlink()
    assert mine.read_text() == "kept" and not (tmp_path / "nothing").exists()


def test_neighbours_are_kept_nowhere_that_a_link_leads(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mrl_experiments.search.neighbour_cache.WORTH", 0)
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    split = Embeddings(features, np.zeros(9, np.int64), None, {}, folder)
    (folder / "neighbours").symlink_to(tmp_path / "mine")
    assert len(neighbours(split, split, [2, 4], k=3)) == 2
    assert not (tmp_path / "mine").exists()


def test_a_run_may_lie_behind_a_link(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder, tmp_path / "elsewhere" / NAME)
    folder.symlink_to(tmp_path / "elsewhere" / NAME)
    assert Run(folder).embeddings("digits", "val")


def test_weights_of_another_model_are_one_error(folder):
    run = changed(folder, model__options={"channels": [8, 8, 16, 16], "stem_width": 8})
    with pytest.raises(UserError, match=r"does not fit .*config.yaml: \d+ of \d+ tensors differ") as refused:
        load_method(run)
    assert len(str(refused.value).splitlines()) == 3


def test_values_that_nothing_can_be_built_from_are_one_error(folder):
    for parts in ({"model__options": {"channels": "x"}}, {"loss__dims": "x"}, {"model__arch": 3}):
        with pytest.raises(UserError) as refused:
            load_method(changed(folder, **parts))
        assert len(str(refused.value).splitlines()) <= 3
    run = changed(folder, data__augment={"unknown": 3})
    with pytest.raises(UserError, match="unexpected keyword"), stored_data(run, trusted_config(run)):
        pass


@pytest.mark.parametrize("content", [{}, {"inputs": 3}, {"inputs": {"num_classes": 10}, "state_dict": [1]}])
def test_a_checkpoint_without_its_parts_is_one_error(content, folder):
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="does not say what its model reads"):
        load_method(Run(folder))


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_stored_cache_is_read_and_never_written_to(folder, tmp_path, capsys):
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    run = changed(folder, data__cache=str(theirs))
    config = trusted_config(run)
    with stored_data(run, config, str(mine)) as data:
        data.prepare("val")
    assert not theirs.exists() and len([*mine.rglob("val.samples.npy")]) == 1
    said = capsys.readouterr().out
    assert f"{theirs} holds no whole digits-" in said and f"it is written to {mine}" in said
    shutil.move(mine, theirs)
    before = files(theirs)
    with stored_data(run, config, str(mine)) as data:
        batch = next(iter(data.dataloader("val")))
    assert files(theirs) == before and not mine.exists()
    (path,) = theirs.rglob("val.samples.npy")
    path.write_bytes(path.read_bytes()[:-1])  # no longer whole
    before = files(theirs)
    with stored_data(run, config, str(mine)) as data:
        again = next(iter(data.dataloader("val")))
    assert files(theirs) == before and [*mine.rglob("val.samples.npy")]
    assert all((a == b).all() for a, b in zip(batch, again, strict=True))


def test_outside_the_block_no_other_cache_is_read(folder, tmp_path):
    run = changed(folder, data__cache=str(tmp_path / "theirs"))
    with stored_data(run, trusted_config(run), str(tmp_path / "mine")):
        assert read_only_caches() == (tmp_path / "theirs",)
    assert read_only_caches() == ()


def test_what_conf_takes_from_the_cache_is_todays(folder, tmp_path):
    source = {"_target_": "mrl_experiments.data.images.torchvision_sets.TorchvisionSet", "name": "cifar10"}
    run = changed(folder, data__source={**source, "root": "/victim"}, data__cache="/theirs")
    config = trusted_config(run)
    assert set(replace_cache(config, str(tmp_path))) == {Path("/victim"), Path("/theirs")}
    assert config.data.source.root == config.data.cache == str(tmp_path)
    folders = {"_target_": "mrl_experiments.data.images.image_folder.ImageFolder", "root": "/pictures"}
    config = trusted_config(changed(folder, data__source=folders))
    replace_cache(config, str(tmp_path))
    assert config.data.source.root == "/pictures"  # is only read


def test_a_set_that_lies_whole_elsewhere_is_read_there(tmp_path, monkeypatch):
    asked = []

    class Kind:
        def __init__(self, root, train, download):
            asked.append((root, download))
            if not root.startswith(str(tmp_path / "theirs")):
                raise RuntimeError("not found")
            self.classes = ["a"]

    monkeypatch.setitem(torchvision_sets.SETS, "cifar10", Kind)
    with reading_also([tmp_path / "theirs"]):
        found = torchvision_sets.TorchvisionSet("cifar10", str(tmp_path / "mine")).manifest("train")
    assert found == {"classes": ["a"]}
    assert not any(download for _, download in asked) and not [*tmp_path.iterdir()]


def test_names_of_sources_and_splits_lead_nowhere_else(tmp_path):
    for place, value in (("name", "../../x"), ("splits", ("../../x",))):
        source = Digits()
        setattr(source, place, value)
        with pytest.raises(UserError, match="cannot name"):
            Cache(tmp_path / "cache", source, {})
    assert not [*tmp_path.iterdir()]


def test_workers_are_no_more_than_this_machine_has(folder):
    run = changed(folder, data__workers=500)
    with stored_data(run, trusted_config(run)) as data:
        assert data.workers <= default_workers()


@pytest.mark.slow
def test_a_run_stored_earlier_embeds_as_it_was_trained(folder, tmp_path):
    done = run("embed.py", f"run={NAME}", f"root={tmp_path}", "splits=[val]")
    assert done.returncode == 0, done.stderr
    part = load(Run(folder).embeddings("digits", "val"))
    validated = json.loads((STORED / "finished.json").read_text())["validation"]
    for dim, measured in validated.items():
        weight, bias = part.heads.at(int(dim))
        hits = (part.at(int(dim)) @ weight.T + bias).argmax(1) == part.labels
        assert hits.mean() == pytest.approx(measured["top1"], abs=1e-6)


@pytest.mark.slow
def test_one_broken_run_of_several_is_named_and_the_others_go_on(folder, tmp_path):
    for name, content in (("a_broken", ""), ("z_broken", "- list")):
        shutil.copytree(STORED, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "config.yaml").write_text(content)
    done = run("embed.py", "run=*", f"root={tmp_path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (folder / "embeddings" / "digits" / "val" / "meta.json").exists()
    assert "left out: a_broken, z_broken" in done.stderr
    done = run("evaluate.py", "run=*", f"root={tmp_path}", "evaluation=linear")
    assert done.returncode == 2 and "left out: a_broken, z_broken" in done.stderr
    assert list((folder / "results").glob("*.csv"))
    alone = run("embed.py", "run=a_broken", f"root={tmp_path}")
    assert alone.returncode == 2 and "it is empty" in alone.stderr


def test_options_of_stored_runs_are_read_by_their_names_of_today(folder):
    assert "centre: 1.0" in (STORED / "config.yaml").read_text()
    augment = trusted_config(Run(folder)).data.augment
    assert augment.center == 1.0 and "centre" not in augment


@pytest.mark.parametrize(
    "place, value",
    [
        ("data__augment__mean", "x"),
        ("data__augment__std", ""),
        ("data__augment__center", "nan"),
        ("data__batch_size", None),
        ("data__workers", []),
        ("loss__label_smoothing", 3),
    ],
)
def test_stored_values_are_checked_like_those_that_are_typed(place, value, folder):
    with pytest.raises(UserError, match=place.replace("__", ".")):
        trusted_config(changed(folder, **{place: value}))


def test_a_label_that_is_a_number_is_text(folder):
    assert trusted_config(changed(folder, label=3)).label == "3"


def test_the_checkpoint_of_another_run_is_noticed(folder):
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    owner = {"loss": "mrl", "model": Run(folder).config.model.name, "data": "digits"}
    torch.save({**content, "run": {**owner, "seed": Run(folder).config.seed}}, path)
    assert load_method(Run(folder))
    torch.save({**content, "run": {**owner, "seed": 7}}, path)
    with pytest.raises(UserError, match="is of another run"):
        load_method(Run(folder))


def test_the_security_policy_says_what_is_trusted_what_is_not_and_how_to_report():
    policy = (ROOT / "SECURITY.md").read_text()
    for heading in ("What is trusted", "What is not", "What cannot be promised", "Reporting"):
        assert f"\n## {heading}\n" in policy
    assert "trust=true" in policy and "weights_only" in policy
