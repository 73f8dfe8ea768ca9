"""Data that a trained run is to embed: its own, unchanged, or others under a name of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mrl_experiments.embeddings import CLASSES, META, read_classes, read_meta
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object
from mrl_experiments.identity import identity, without_new_keys
from mrl_experiments.options.typed import typed_keys
from mrl_experiments.runs import Run
from mrl_experiments.stored import RENAMED

# Where files lie does not matter where they are known by themselves.
ROOTS = ("data.root", "data.source.root")
OWN_NAME = "keep them apart by a name of their own: data.name=<name>, here and for evaluate.py"


def as_trained(given: DictConfig, config: DictConfig) -> DictConfig:
    """Return data options, resolved, changed to what a run that was trained with `config` needs.

    Images are normalized as in training, unless the command line names it. Where the options mean the run's
    own data, keys of the source that the run does not know are left out: so an older run keeps, for instance,
    the way in which it was split.
    """
    own = config.data
    given = OmegaConf.create({"data": OmegaConf.to_container(given, resolve=True)}).data
    with open_dict(given):
        if "augment" in given and "augment" in own:
            _normalize_alike(given.augment, own.augment, with_center=bool(config.model.get("pretrained")))
    without_new_keys(given, own)
    return given


def _normalize_alike(given: DictConfig, own: DictConfig, *, with_center: bool) -> None:
    typed = typed_keys()
    for key in ("mean", "std", *(("center",) if with_center else ())):
        same_channels = key == "center" or len(given[key]) == len(own[key])
        if given[key] != own[key] and same_channels and f"data.augment.{key}" not in typed:
            print(f"data.augment.{key}={own[key]}, as the run was trained with, not {given[key]}", flush=True)
            given[key] = own[key]


def refuse_other_data(
    run: Run, config: DictConfig, data: Any, given: DictConfig | None, accept: bool
) -> None:
    """Raise UserError where data that are named like a run's own are others, unless `accept`.

    Files are compared by `build.restore_data` where the run knows them; here, options are. Of a run that does
    not know its files, it is said when they have changed since.
    """
    _name_classes(run, config, data)
    own = str(config.data.name)
    if data.name != own or getattr(data, "files_known", False):
        return
    described = _source(config.data)
    now = described if given is None else _source(given)
    if now != described and not accept:
        odd = sorted(key for key in now.keys() | described.keys() if now.get(key) != described.get(key))
        shown = ", ".join(f"{key}={now.get(key)} (the run: {described.get(key)})" for key in odd[:3])
        raise UserError(
            f"{data.name} names the data that run {run.name} was trained on; these are others: {shown}",
            expected="the run's own data, or another name",
            remedy=f"{OWN_NAME}; accept_changes=true where they are the same, elsewhere",
        )
    newest = data.newest_change()
    if newest is not None and newest > run.config_path.stat().st_mtime_ns:
        print(
            f"{data.name}: files or folders have changed since run {run.name} was begun, which did not note "
            "them; where splits go by position, images it was trained on may be in another split now",
            flush=True,
        )


def refuse_mixed_splits(run: Run, data: Any, splits: Sequence[str], meta: Mapping[str, Any]) -> None:
    """Raise UserError where splits that are not embedded now are of other data of the same name."""
    for path in sorted(run.embeddings(data.name, "*").parent.glob(f"*/{META}")):
        if f"{path.parent.name}@".startswith((".", *(f"{split}@" for split in splits))):
            continue  # written anew where they are damaged, or not in place yet
        stored = read_object(path)
        if stored.get("split") in splits or not isinstance(stored.get("data"), Mapping):
            continue
        known = "files" in stored and "files" in meta
        theirs, ours = (
            {key: value for key, value in one["data"].items() if key.startswith("data.source.")}
            for one in (stored, meta)
        )
        same = _without_roots(theirs) == _without_roots(ours) if known else theirs == ours
        if not same or (known and stored["files"] != meta["files"]):
            raise UserError(
                f"{path.parent} holds embeddings of other data under the name {data.name}",
                expected="splits of one data set below one name",
                remedy=f"{OWN_NAME}; or embed all splits anew: splits=null",
            )


def described(data: Any, options: DictConfig) -> dict[str, Any]:
    """Return what embeddings keep of their data: options, and a digest of the files where there are any."""
    flat = identity({"data": OmegaConf.to_container(options, resolve=True)})
    flat.pop("data.balance", None)  # of training only
    files = data.files_identity()
    return {"data": flat} if files is None else {"data": _without_roots(flat), "files": files}


def expected_meta(folder: Path, meta: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    """Return the meta by which complete embeddings in `folder` are known.

    Options may have their old names there. Embeddings of before files were noted are taken as they are,
    unless a file has changed since.
    """
    stored = read_object(folder / META) if (folder / META).exists() else {}
    if not isinstance(stored.get("data"), Mapping):
        return meta
    known = {RENAMED.get(key, key): value for key, value in stored["data"].items()}
    if known == meta["data"]:
        return {**meta, "data": stored["data"]}
    newest = None if "files" in stored or "files" not in meta else data.newest_change()
    same = newest is not None and newest <= (folder / META).stat().st_mtime_ns
    if not same or _without_roots(known) != meta["data"]:
        return meta
    return {**{key: value for key, value in meta.items() if key != "files"}, "data": stored["data"]}


def _source(options: DictConfig) -> dict[str, Any]:
    flat = identity({"data": OmegaConf.to_container(options, resolve=True)})
    return {
        key: value
        for key, value in flat.items()
        if key == "data.root" or (key.startswith("data.source.") and key != "data.source.root")
    }


def _without_roots(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key not in ROOTS}


def _name_classes(run: Run, config: DictConfig, data: Any) -> None:
    """Label data as a run that did not note its classes, by what it has embedded of its own data."""
    from mrl_experiments.data.images.image_data import ImageData  # which loads torch

    if not isinstance(data, ImageData) or data.classes_known:
        return
    for path in sorted(run.embeddings(str(config.data.name), "*").parent.glob(f"*/{CLASSES}")):
        if names := read_classes(path.parent, read_meta(path.parent)).get("name"):
            data.take_classes(names)
            return
