"""Pretrained weights from files: which of their tensors are meant, and that they are those of the model."""

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import timm.models
import torch
from torch import Tensor, nn

from mrl_experiments.errors import UserError, said
from mrl_experiments.files import os_error, read_object

ENOUGH = 0.95  # the share of a backbone's parameters that weights must bring with their shapes
FOLDER = "local-dir:"  # as timm calls a folder of weights
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
USUAL = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # in a folder
AVERAGED = re.compile(r"(?:^|[._])(?:ema|teacher)(?:[._]|$)")  # names of averaged weights, which come first
KINDS = {  # what a tensor is in its module, by the last part of its name in PyTorch, TensorFlow and JAX
    "weight": ("weight", "kernel", "gamma", "scale"),
    "bias": ("bias", "beta"),
    "mean": ("running_mean", "moving_mean", "mean"),
    "variance": ("running_var", "moving_variance", "var", "variance"),
}
CLASSIFIER = (
    4  # tensors that a file may have beyond a backbone's: of a classifier, or of two, by distillation
)
DEEPEST = 3  # mappings inside each other, such as {"checkpoint": {"model": {"state_dict": ...}}}

State = dict[str, Tensor]
Shapes = Mapping[str, torch.Size]


def weights_file(pretrained: str) -> Path | None:
    """Return the file that `model.pretrained` names, itself or by its folder; None for a tag of timm.

    Raises:
        UserError: If there is no such file, or none in the folder.
    """
    path = Path(pretrained.removeprefix(FOLDER)).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        usual = [path / name for name in USUAL if (path / name).is_file()]
        found = usual or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(found) == 1 or usual:
            return found[0]
        raise UserError(
            f"model.pretrained={pretrained}: {len(found)} files of weights in this folder",
            expected=f"one of {', '.join(USUAL)}, or a single file with {', '.join(SUFFIXES)}",
            remedy="name the file itself",
        )
    if is_place(pretrained):
        raise UserError(f"model.pretrained={pretrained}: no such file", expected="a file, or a folder of one")
    return None


def is_place(pretrained: str | bool | None) -> bool:
    """Return whether `model.pretrained` names a file or folder, there or not, and no tag of timm."""
    text = str(pretrained)
    return text.startswith(FOLDER) or "/" in text or Path(text).suffix in SUFFIXES or Path(text).is_file()


def preprocessing(pretrained: str | bool | None) -> dict[str, Any]:
    """Return what the folder of weights says of their images, as timm writes it: mean, std, crop_pct, ...

    Raises:
        UserError: If its config.json is damaged.
    """
    path = Path(str(pretrained).removeprefix(FOLDER)).expanduser() / "config.json"
    config = read_object(path).get("pretrained_cfg") if is_place(pretrained) and path.is_file() else None
    return config if isinstance(config, dict) else {}


def read_weights(path: Path) -> dict[str, Any]:
    """Return what a file of weights holds, on the CPU.

    Only tensors and plain values are read, so that a stranger's file runs no code.

    Raises:
        UserError: If it cannot be read, or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's own checkpoints hold one
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise os_error(error, path) from error
    except Exception as error:  # what is no such file makes readers raise nearly anything
        raise UserError(
            f"model.pretrained={path} cannot be read as weights: {said(error)}",
            expected="tensors and plain values only, as .safetensors or torch.save hold them",
            remedy="torch.save(model.state_dict(), path) writes such a file",
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"model.pretrained={path} holds a {type(content).__name__}, not tensors by name")
    return content


def choose_state(content: Mapping[str, Any], shapes: Shapes) -> tuple[State, str]:
    """Return those tensors of a file that fit a model best, and a word on where they lie in it.

    A file may hold several sets, such as `state_dict` and `model_ema`, and names may begin with what a
    wrapper put before them, such as `module.` or `backbone.`. The most names with equal shapes count;
    where averaged weights have about as many, they come first. Where few names are the model's, the
    set is returned as it is, for timm to translate.
    """
    best: tuple[float, str, str] = (-1.0, "", "")
    states = dict(_states(content))
    for place, state in states.items():
        for prefix, count in _prefixes(state, shapes).items():
            preferred = count * (2 - ENOUGH if AVERAGED.search(f"{place}.{prefix}") else 1)
            if preferred > best[0]:
                best = preferred, place, prefix
    fits, place, prefix = best
    if fits >= len(shapes) / 2:
        chosen = {key[len(prefix) :]: t for key, t in states[place].items() if key.startswith(prefix)}
    else:
        order = ("state_dict_ema", "model_ema", "state_dict", "model")
        place = next((name for name in order if name in states), None) or max(
            states, key=lambda name: len(states[name]), default=""
        )
        chosen, prefix = timm.models.clean_state_dict(states.get(place, {})), ""
    told = " ".join(filter(None, (place, prefix and f"without the prefix {prefix}")))
    return chosen, told


def in_order(state: State, shapes: Shapes, option: str) -> State:
    """Return a file's tensors under the names of a model, module after module; numbers are left out.

    What a tensor is within its module (weight, bias, running mean or variance) must be the same on both
    sides where the names say so, in whatever order a file has them. Prints what was placed where.

    Args:
        state: Of the file.
        shapes: Of the model, by name.
        option: What names the weights, for messages.

    Raises:
        UserError: Where the two orders part, or more is left over than a classifier.
    """
    theirs = [name for name, tensor in state.items() if tensor.ndim]
    ours = [name for name, shape in shapes.items() if shape]
    placed: dict[str, str] = {}
    for _, names in itertools.groupby(ours, key=lambda name: name.rpartition(".")[0]):
        module = list(names)
        placed |= _by_kind(module, theirs[len(placed) :][: len(module)])
    left = theirs[len(placed) :]
    if (apart := _parting(placed, state, shapes)) is not None:
        found = f"{placed[apart]} {_size(state[placed[apart]].shape)}" if apart in placed else "nothing"
        problem = f"by order, {apart} {_size(shapes[apart])} of the model would be {found} of the file"
    elif len(left) > CLASSIFIER:
        problem = f"by order, {len(left)} tensors are left over: {_shown(state, left)}"
    else:
        ends = (f"{placed[name]} -> {name}" for name in (ours[0], ours[-1]))
        unused = f"; not used: {_shown(state, left)}" if left else ""
        print(f"{option}: {len(placed)} tensors by order, {' ... '.join(ends)}{unused}", flush=True)
        return {name: state[key] for name, key in placed.items()}
    raise UserError(
        f"{option}: {problem}",
        expected="the same kinds of tensors in the same order, and after them at most a classifier",
        remedy="name the architecture whose weights these are, or write a file with its names: "
        "torch.save({ours: weights[theirs], ...}, path)",
    )


def _parting(placed: Mapping[str, str], state: State, shapes: Shapes) -> str | None:
    """Return the first tensor of a model that cannot be what is placed there; None if all can.

    Shapes may differ where timm makes them fit: of the first convolution and of positions.
    """
    first = next((name for name in shapes if len(shapes[name]) == 4), None)
    for name, shape in shapes.items():
        if not shape:
            continue
        if name not in placed or len({_kind(name), _kind(placed[name])} - {None}) > 1:
            return name
        if state[placed[name]].shape != shape and name != first and not name.endswith("pos_embed"):
            return name
    return None


def _by_kind(ours: list[str], theirs: list[str]) -> dict[str, str]:
    """Return {ours: theirs} within a module, by what they are where the names say it, else in order."""
    kinds = [_kind(name) for name in theirs]
    if None not in kinds and len({*kinds}) == len(kinds) and {*kinds} == {*map(_kind, ours)}:
        return {name: theirs[kinds.index(_kind(name))] for name in ours}
    return dict(zip(ours, theirs, strict=False))


def _kind(name: str) -> str | None:
    last = re.split("[./]", name)[-1].casefold()
    return next((kind for kind, words in KINDS.items() if last in words), None)


def _states(node: Mapping[Any, Any], place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield each mapping of names to tensors inside another, with its dotted place."""
    tensors = {
        key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield place, tensors
    for key, value in node.items():
        if isinstance(key, str) and isinstance(value, Mapping) and depth < DEEPEST:
            yield from _states(value, f"{place}.{key}".removeprefix("."), depth + 1)


def _prefixes(state: State, shapes: Shapes) -> Counter[str]:
    """Count, for what may stand before the names of a model, the tensors that then have its shapes."""
    counts: Counter[str] = Counter()
    for key, tensor in state.items():
        parts = key.split(".")
        for start in range(len(parts)):
            if shapes.get(".".join(parts[start:])) == tensor.shape:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


@contextmanager
def checked_loading(option: str) -> Iterator[None]:
    """Check within the block what models load, and leave out what does not have their shapes.

    timm itself goes on with random weights where no name fits.

    Args:
        option: What names the weights, for messages, such as model.pretrained=true.

    Raises:
        UserError: If less than 95 % of a model's parameters are found with their shapes.
    """
    everywhere: Any = nn.Module
    load = everywhere.load_state_dict

    def checked(
        module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        return load(module, _fitting(module, state_dict, option), strict=False, assign=assign)

    everywhere.load_state_dict = checked
    try:
        yield
    finally:
        everywhere.load_state_dict = load


def _fitting(module: nn.Module, state: Mapping[str, Any], option: str) -> State:
    """Return the tensors that have a place in a module; print what is left as it began."""
    own = module.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    parameters = dict(module.named_parameters())
    missing = [name for name in parameters if name not in fitting]
    found = len(parameters) - len(missing)
    lost = sum(parameters[name].numel() for name in missing)
    share = min(found / len(parameters), 1 - lost / sum(one.numel() for one in parameters.values()))
    if share < ENOUGH:
        odd = [key for key in state if key not in fitting]
        raise UserError(
            f"{option}: of {len(parameters)} parameters of the backbone, {found} are in it with their shapes",
            expected=f"at least {ENOUGH:.0%}; the model has {_shown(own, missing)}, the weights have "
            f"{_shown(state, odd) or 'no others'}",
            remedy="name the architecture whose weights these are; where only the names differ, "
            "model.pretrained_by_order=true goes by order and shape",
        )
    missing += [name for name, value in own.items() if value.ndim and name not in {*fitting, *parameters}]
    if missing:
        print(f"{option}: {len(missing)} tensors begin as without it: {_shown(own, missing)}", flush=True)
    return fitting


def _shown(tensors: Mapping[str, Tensor], names: list[str]) -> str:
    return ", ".join(f"{name} {_size(tensors[name].shape)}" for name in names[:3])


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
