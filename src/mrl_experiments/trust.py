"""What a stored configuration may build: the classes that conf/ names, each at the same key."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import DictConfig, OmegaConf

from mrl_experiments.errors import UserError, shown
from mrl_experiments.places import CONF
from mrl_experiments.stored import MOVED

QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # for conf/, which is ours
NAMED = ("callbacks", "logger")  # groups of objects that each have a name of the user's
BASES, HERE = "base", "_here_"  # what options inherit from, and how their defaults put it at their own place
OF_CACHE = "${data.cache}"  # in conf/: a place that is written to, wherever the cache is
Trust: TypeAlias = bool | str | Sequence[str]  # true: all of it; else classes of the user's own
Signature: TypeAlias = frozenset[tuple[str, str]]  # the keys of a node that Hydra obeys, and their values

# Options that bring weights or code from elsewhere: of timm's factory, and of transformers' configurations.
# So does what has "pretrained" in its name.
LOADING = {
    *("checkpoint_path", "cache_dir", "file", "url", "hf_hub_id", "state_dict", "backbone", "feature_cls"),
    *("auto_map", "trust_remote_code", "custom_pipelines", "code_revision", "name_or_path", "_name_or_path"),
    *("quantization_config", "kernel_config", "revision", "token"),
}
WEIGHTS = ("pretrained", "pretrained_by_order")  # options of a model that its checkpoint stands in for
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
BUILT_IN = ("eager", "sdpa", None)  # other implementations are libraries, or kernels that are downloaded
ELSEWHERE = ("/", "\\", ":")  # in a value: a path, an address, or the source of a model


def trusted(config: DictConfig, path: Path, trust: Trust = False) -> DictConfig:
    """Return a stored configuration to build from, once all that it names is known.

    Args:
        config: As `read_config` returns it.
        path: Its file, for messages.
        trust: True, where the user has said that whoever wrote the file may run code; or the classes besides
            this project's own that may be built.

    Raises:
        UserError: If it names a class or another key of Hydra's that this project's conf/ does not name at
            the same place, or a model's option that reads weights or code from elsewhere.
    """
    allowed = [trust] if isinstance(trust, str) else [] if isinstance(trust, bool) else list(trust)
    allowed = [MOVED[name]["_target_"] if name in MOVED else name for name in allowed]
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    if trust is not True:
        for place, node in _nodes(plain):
            if (own := _signature(node)) and node.get("_target_") not in allowed:
                _check_node(place, node, own, path)
        for place, key, value in _values(plain.get("model"), "model"):
            _check_option(place, key, value, path)
    return OmegaConf.create(plain)


def replace_cache(config: DictConfig, cache: str) -> list[Path]:
    """Set the cache of a stored configuration's data; return the places that it named for it before.

    Those are `data.cache` and whatever conf/ derives from it at the same place.
    """
    plain, known, places = OmegaConf.to_container(config), _known() if CONF.is_dir() else {}, []
    for place, node in _nodes(plain):
        derived = known.get((place, _signature(node)), frozenset())
        for key in derived | ({"cache"} & {*node} if place == "data" else set()):
            owner = OmegaConf.select(config, place)
            with suppress(RuntimeError):  # the home of an account that is not here
                places.append(Path(str(owner[key])).expanduser())
            owner[key] = cache
    now = Path(cache).expanduser()
    return [place for place in dict.fromkeys(places) if place != now and str(place).isprintable()]


def _check_node(place: str, node: Mapping[Any, Any], own: Signature, path: Path) -> None:
    known = {signature for where, signature in _known() if _kind(where) == _kind(place)}
    if own in known:
        return
    name = shown(f"{place}._target_") if place else "_target_"
    target = node.get("_target_")
    targets = sorted(
        {value.strip("'") for signature in known for key, value in signature if key == "_target_"}
    )
    if target in targets:
        others = {key: value for key, value in node.items() if _is_special(key) and key != "_target_"}
        problem = f"{path}: {name}={target} with {shown(others)}, as conf/ never has it"
    else:
        problem = f"{path}: {name}={shown(target)} is no class that this project builds there"
    raise UserError(
        problem,
        expected=f"one of {', '.join(targets)}" if targets else "no class at this place",
        remedy="do not use a stranger's file: it can run code. If it is yours, allow this class, "
        f"trust=[{shown(target)}], or all that the file names, trust=true (--trust in scripts/gradcam.py)",
    )


def _kind(place: str) -> str:
    """Return a place with * for the name that the user gives a callback or logger."""
    group, _, inside = place.partition(".")
    return ".".join([group, "*", *inside.split(".")[1:]]) if group in NAMED and inside else place


def _check_option(place: str, key: str, value: Any, path: Path) -> None:
    if place == "model" and key in ("name", *WEIGHTS):  # a label; what load_method does without
        return
    loads = (key in LOADING or "pretrained" in key) and value not in (None, False)
    foreign = any(name in key for name in IMPLEMENTATIONS) and value not in BUILT_IN
    if loads or foreign or (isinstance(value, str) and any(sign in value for sign in ELSEWHERE)):
        raise UserError(
            f"{path}: {shown(f'{place}.{key}')}={shown(value)} can read weights or code from elsewhere",
            expected="an architecture with options of its form; the checkpoint brings the weights",
            remedy="do not use a stranger's file. If it is yours: trust=true (--trust in scripts/gradcam.py)",
        )


def _nodes(node: Any, place: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield all mappings with their dotted places; those in a list are all at `place[]`."""
    if isinstance(node, dict):
        yield place, node
        for key, value in node.items():
            yield from _nodes(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value, f"{place}[]")


def _values(node: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (place of its owner, key, value) for all in `node`; items of a list have the list's key."""
    for where, owner in _nodes(node, place):
        for key, value in owner.items():
            for item in value if isinstance(value, list) else [value]:
                yield where, str(key), item


def _is_special(key: Any) -> bool:
    return isinstance(key, str) and len(key) > 2 and key.startswith("_") and key.endswith("_")


def _signature(node: Mapping[Any, Any]) -> Signature:
    return frozenset((key, repr(value)) for key, value in node.items() if _is_special(key))


@functools.cache
def _known() -> dict[tuple[str, Signature], frozenset[str]]:
    """Return what conf/ builds: (place, signature) with the keys there that follow the cache.

    Raises:
        UserError: If this project's conf/ is neither in the package nor beside its source.
    """
    files = sorted(CONF.rglob("*.yaml"))
    if CONF / "train.yaml" not in files:
        raise UserError(
            f"{CONF} is not there, so nothing says which classes a stored configuration may name",
            expected="the folder conf/ of this project, as a wheel holds it or as it lies beside src/",
            remedy="install the package anew; or, for a run of your own, trust=true",
        )
    known: dict[tuple[str, Signature], frozenset[str]] = {}
    for file in files:
        if file.parent == CONF / BASES:
            continue  # no place of their own: theirs is that of each file that inherits
        package, tree = inherited(file)
        for place, node in _nodes(tree, package):
            if own := _signature(node):
                derived = {key for key, value in node.items() if value == OF_CACHE}
                known[place, own] = known.get((place, own), frozenset()) | derived
    return known


def inherited(file: Path) -> tuple[str, dict[Any, Any]]:
    """Return the place of a file of conf/ and what it holds there, with what it inherits as Hydra merges it.

    It inherits what its defaults name without a group and put at the same place; what a group's option adds
    elsewhere is in that option's file.
    """
    text = file.read_text(encoding="utf-8")
    package = "" if text.startswith("# @package _global_") else ".".join(file.relative_to(CONF).parts[:-1])
    own = yaml.load(text, Loader=QUICK) or {}
    merged: dict[Any, Any] = {}
    for entry in own.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            name, _, at = entry.partition("@")
            folder = CONF if name.startswith("/") else file.parent
            place, tree = inherited(folder / f"{name.removeprefix('/')}.yaml")
            merged = _merged(merged, tree) if at == HERE or place == package else merged
    return package, _merged(merged, own)


def _merged(base: dict[Any, Any], own: dict[Any, Any]) -> dict[Any, Any]:
    both = {
        key: _merged(base[key], own[key])
        for key in base.keys() & own.keys()
        if isinstance(base[key], dict) and isinstance(own[key], dict)
    }
    return base | own | both
