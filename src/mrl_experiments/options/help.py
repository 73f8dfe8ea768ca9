"""The page that --help shows of a command: examples, groups with their options, what is changed most."""

import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from mrl_experiments.options.check import tree_of
from mrl_experiments.options.kinds import Number, Option, show
from mrl_experiments.places import CONF

WIDTH, NAMES = 80, 22  # columns of the page, and of the names of options
NO_OPTIONS = ("hydra", "base")  # folders of conf/ from which nothing is chosen
KEYS = {
    "train": (
        *("epochs", "seed", "data.root", "data.batch_size", "data.size", "loss.dims", "optim.lr"),
        *("model.pretrained", "trainer.devices", "tag"),
    ),
    "embed": (
        *("run", "splits", "checkpoint", "weights", "tta", "overwrite", "trainer.precision"),
        *("trainer.devices", "cache", "root"),
    ),
    "evaluate": (
        *("run", "embeddings", "queries", "database", "dims", "quiet", "variant", "reduction.draws", "root"),
    ),
    "generate": ("run", "prompt", "dim", "adaptive", "tokens", "temperature", "seed", "root"),
    "export": (
        *("run", "format", "dim", "int8", "out", "overwrite", "push", "repo", "license", "root"),
    ),
    "serve": ("run", "index", "split", "recall", "cascade", "host", "port", "api_key", "batch", "root"),
    "report": ("rows", "out", "open", "root"),
}  # fmt: skip


def help_page(*, _root_: DictConfig) -> str:
    """Return the page of the command that Hydra has composed `_root_` for."""
    hydra: Any = GlobalHydra.instance().hydra
    hydra.format_config_groups = lambda *_, **__: ""  # takes it a second, for templates that name them
    command, typed_as = str(HydraConfig.get().job.config_name), Path(sys.argv[0]).name
    shown = typed_as if typed_as.startswith("mrl-") else f"python {command}.py"
    lines = [f"{shown} [group=option] [option=value] ...", "", "Examples"]
    lines += [f"  {shown} {typed}".rstrip() for typed in examples(command)]
    if groups := list(_groups()):
        lines += ["", "Groups: choose one option of each", *groups]
    lines += ["", "Options", *_options(_root_, command), ""]
    lines += [f"All options with their values: {shown} --cfg job", "More: docs/commands.md"]
    return "\n".join(lines).replace("$", "$$")  # Hydra fills in what is written with one


def examples(command: str) -> list[str]:
    """Return how a command is typed, without its name: the comments that its file in conf/ begins with."""
    lines = (CONF / f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return [line.removeprefix(f"# python {command}.py").strip() for line in head]


def _groups() -> Iterator[str]:
    """Yield lines with the groups of this command, what is chosen of each, and what else can be."""
    for group, chosen in sorted(HydraConfig.get().runtime.choices.items()):
        if group.partition("/")[0] in NO_OPTIONS:
            continue
        names = " ".join(_choices(group)) + (", or a name of timm's" if group == "model" else "")
        yield from _entry(f"{group}={show(chosen)}", names)


def _choices(group: str) -> Iterator[str]:
    loader: Any = GlobalHydra.instance().config_loader()
    yield from loader.get_group_options(group, ObjectType.CONFIG)
    for folder in loader.get_group_options(group, ObjectType.GROUP):
        yield f"{folder}/..."


def _options(cfg: DictConfig, command: str) -> Iterator[str]:
    tree = tree_of(cfg, command)
    of_evaluation = [f"evaluation.{key}" for key in tree.get("evaluation", {}) if command == "evaluate"]
    for key in (*KEYS[command], *of_evaluation):
        known: Any = tree
        for part in key.split("."):
            known = known.get(part, {}) if isinstance(known, dict) else known
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not (isinstance(known, Option) and isinstance(node, DictConfig)):
            continue
        if OmegaConf.is_missing(node, last):
            yield from _entry(f"{key}=...", _meaning(known))
        elif last in node:
            yield from _entry(f"{key}={show(_plain(node[last]))}", _meaning(known))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _meaning(option: Option) -> str:
    unit = option.unit if isinstance(option, Number) else ""
    return f"{option.meaning} [{unit}]" if unit else option.meaning


def _entry(name: str, text: str) -> list[str]:
    """Return a name and a text beside it, or below where the name is too long."""
    indent = " " * (NAMES + 3)
    lines = textwrap.wrap(text, WIDTH - len(indent)) or [""]
    first = f"  {name:{NAMES}} "
    if len(first) > len(indent):
        return [first.rstrip(), *(indent + line for line in lines)]
    return [first + lines[0], *(indent + line for line in lines[1:])]
