"""The configuration in a run's folder: plain data from anyone, with one clear error where it is damaged."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader  # YAML as OmegaConf reads it, such as 1e-3

from mrl_experiments.errors import UserError, shown
from mrl_experiments.files import atomic_path, reading
from mrl_experiments.names import check_name

LARGEST = 1 << 18  # bytes; those that train.py writes have some 2,000
DEEPEST = 50  # mappings and lists in one another; those of train.py are some 5
INTERPOLATION = "${"
CHECKSUM = re.compile(rb"# sha256 of what follows: ([0-9a-f]{64})\b[^\n]*\n")
MENDING = "restore it from a copy, or repeat the train.py command in another folder: tag=_second"

# Where classes have gone, with the options that the new one has beside those of the old: {"old.Name":
# {"_target_": "new.Name", ...}}. Run folders keep the names of the day they were written; they are read as
# the new ones, before anything else looks at them.
_CLASSIFIER = "mrl_experiments.losses.classifier.NestedClassifier"
_INFONCE = "mrl_experiments.losses.infonce.InfoNCE"
_MODULES = {  # below mrl_experiments
    "data.beton_files.BetonFiles": "data.images.beton_files.BetonFiles",
    "data.digits.Digits": "data.images.digits.Digits",
    "data.image_data.ImageData": "data.images.image_data.ImageData",
    "data.image_folder.ImageFolder": "data.images.image_folder.ImageFolder",
    "data.image_stream.ImageStream": "data.images.image_stream.ImageStream",
    "data.image_text_data.ImageTextData": "data.captions.image_text_data.ImageTextData",
    "data.image_text_folder.ImageTextFolder": "data.captions.image_text_folder.ImageTextFolder",
    "data.kanji.Kanji": "data.kanji.kanji.Kanji",
    "data.kanji_captions.KanjiCaptions": "data.kanji.captions.KanjiCaptions",
    "data.query_folders.QueryFolders": "data.images.query_folders.QueryFolders",
    "data.torchvision_sets.TorchvisionSet": "data.images.torchvision_sets.TorchvisionSet",
    "data.unseen_folders.UnseenFolders": "data.images.unseen_folders.UnseenFolders",
    "losses.slim.Slim": "losses.slimmable.slim.Slim",
}
MOVED: dict[str, dict[str, Any]] = {
    "mrl_experiments.losses.mrl.MRL": {"_target_": _CLASSIFIER, "nested": True, "tied": False},
    "mrl_experiments.losses.mrl_e.MRLE": {"_target_": _CLASSIFIER, "nested": True, "tied": True},
    "mrl_experiments.losses.ff.FF": {"_target_": _CLASSIFIER, "nested": False, "tied": None},
    "mrl_experiments.losses.infonce.InfoNCE": {"_target_": _INFONCE, "nested": True},
    "mrl_experiments.losses.infonce_ff.InfoNCEFF": {"_target_": _INFONCE, "nested": False},
    **{f"mrl_experiments.{old}": {"_target_": f"mrl_experiments.{new}"} for old, new in _MODULES.items()},
}

RENAMED = {"data.augment.centre": "data.augment.center"}  # options, old name to new


def write_config(path: Path, config: Mapping[Any, Any]) -> None:
    """Write a configuration of plain values with a checksum.

    Raises:
        UserError: If `read_config` would refuse it: for a name, or a value that looks like an interpolation.
    """
    try:
        _check_names(OmegaConf.create(dict(config)), path)
    except ValueError as error:
        raise UserError(f"{path} cannot be written: {error}", expected="a name on one line") from error
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    if INTERPOLATION in text:
        (line,) = [line.strip() for line in text.splitlines() if INTERPOLATION in line][:1]
        raise UserError(f"{line}: a value may not contain {INTERPOLATION}", expected="plain values in a run")
    digest = hashlib.sha256(text.encode()).hexdigest()
    with atomic_path(path) as temporary:
        head = f"# sha256 of what follows: {digest}; delete this line after a change that is meant\n"
        temporary.write_text(head + text, encoding="utf-8")


def read_config(path: Path) -> DictConfig:
    """Return a stored configuration, which is read-only until `trust.trusted` has looked at what it names.

    Files without a checksum, as they once were written, are read as they are.

    Raises:
        UserError: If the file is missing, damaged, changed since it was written, or not the plain description
            of a run: with tags, interpolations or aliases.
    """
    with reading(path, "a file written by train.py", MENDING):
        content = _bytes(path)
        _check_digest(path, content)
        try:
            _check_plain(content.decode())
            plain = yaml.load(content.decode(), Loader=get_yaml_loader())
        except yaml.MarkedYAMLError as error:
            line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ValueError(f"{error.problem}{line}") from error
        if not isinstance(plain, dict):
            raise ValueError("it is empty" if plain is None else "it is no mapping")
        config = OmegaConf.create(_renamed(plain))
        for old, new in RENAMED.items():
            group, _, key = old.rpartition(".")
            if key in (options := OmegaConf.select(config, group) or {}):
                value = options.pop(key)
                OmegaConf.update(config, new, options.get(new.rpartition(".")[2], value))
        _check_names(config, path)
    OmegaConf.set_readonly(config, True)
    return config


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if not path.is_file():
        raise UserError(f"{path} is no file", expected="a file written by train.py", remedy=MENDING)
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes")
    return path.read_bytes()


def _check_digest(path: Path, content: bytes) -> None:
    """Raise UserError if the checksum in the first line, where there is one, is not that of the others."""
    noted = CHECKSUM.match(content)
    if noted and hashlib.sha256(content[noted.end() :]).hexdigest().encode() != noted[1]:
        raise UserError(
            f"{path} has changed since it was written",
            expected="the file as train.py wrote it; its first line holds the checksum",
            remedy=f"{MENDING}; if the change is meant, delete the first line",
        )


def _check_plain(text: str) -> None:
    """Raise ValueError for what train.py never writes: tags, aliases, interpolations, deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=get_yaml_loader()):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # which takes a time that grows with the square of the depth
            raise ValueError("its values are nested too deeply")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"the alias *{event.anchor} stands for values that it does not hold")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"the tag {tag} is no plain value")
        if isinstance(event, yaml.ScalarEvent) and INTERPOLATION in event.value:
            raise ValueError(f"{shown(event.value)} would be resolved; stored files are not")


def _renamed(node: Any) -> Any:
    """Return plain values with the classes that have moved under their new names, with their new options."""
    if isinstance(node, list):
        return [_renamed(value) for value in node]
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    moved = MOVED.get(target, {}) if isinstance(target, str) else {}
    kept = {key: _renamed(value) for key, value in node.items() if key != "_target_" or not moved}
    return {**moved, **kept}


def _check_names(config: DictConfig, path: Path) -> None:
    """Check what every run says of itself: by it folders and the columns of tables are named."""
    for part in ("data", "model", "loss"):
        name = OmegaConf.select(config, f"{part}.name")
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"it says no {part}.name" if name is None else f"{part}.name is {name!r}")
    check_name(config.data.name, f"{path}: data.name")
    if "seed" not in config or not isinstance(config.seed, int | None) or isinstance(config.seed, bool):
        raise ValueError(f"seed is {config.seed!r}" if "seed" in config else "it says no seed")
    label = config.get("label")
    if label is not None and not (isinstance(label, str | int) and str(label).isprintable()):
        raise ValueError("label is no name")
