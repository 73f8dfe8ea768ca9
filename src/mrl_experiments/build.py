"""Build a method from a configuration, and a trained one from a run."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.checkpoint import REMEDY, read_checkpoint
from mrl_experiments.construct import construct
from mrl_experiments.data.artifact_cache import reading_also, usual_cache
from mrl_experiments.data.loaders.cache import default_workers
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.options.check import check_stored
from mrl_experiments.runs import ID, Run
from mrl_experiments.trust import WEIGHTS, Trust, replace_cache, trusted

CURRENT = "current_model_state"  # where Lightning keeps the weights that are trained beside averaged ones
PREFIX = "method."  # of the method's parameters in a checkpoint of the LightningModule


def build_method(cfg: DictConfig, *, num_classes: int, **inputs: int) -> Method:
    """Build backbone and heads for the data that `inputs` describe, such as images of channels and size.

    Raises:
        UserError: If the backbone is made for data of another kind.
    """
    make = construct(cfg.model)
    try:
        inspect.signature(make).bind(**inputs)
    except TypeError as error:
        raise UserError(
            f"model={cfg.model.name} does not take what data={cfg.data.name} gives: {error}",
            expected=f"a model whose inputs are described by {', '.join(inputs)}",
            remedy="choose model= and data= of one kind: images, text, both, or vectors (model=adaptor)",
        ) from error
    method = construct(cfg.loss)(backbone=make(**inputs), num_classes=num_classes)
    assert isinstance(method, Method)
    return method


def trusted_config(run: Run, trust: Trust = False) -> DictConfig:
    """Return a run's configuration once all that it names is known, or allowed by `trust` (see trust.py).

    Raises:
        UserError: If it is not, if a value does not fit its option, or if the run is damaged or was made of
            files.
    """
    config = run.config
    if config.get("external"):
        raise UserError(
            f"run {run.name} was made of files: it has no model",
            expected="a run of train.py",
            remedy="evaluate.py embeddings=<file> database=<file> reads files",
        )
    known = trusted(config, run.config_path, trust)
    check_stored(known, run.config_path)
    return known


@contextmanager
def stored_data(
    run: Run, config: DictConfig, cache: str | None = None, named: DictConfig | None = None
) -> Iterator[Any]:
    """Yield the data that a run was trained on, as `config`, from `trusted_config`, describes them.

    Others, where a command has `named` the options of others.

    They are prepared in `cache`, or in MRL_DATA where it is None. What lies whole where the cache was when
    the run was trained is read there within the block, and nothing is written to it.

    Raises:
        UserError: If the data cannot be built.
    """
    if named is not None:
        if cache is not None:
            named.cache = cache
        yield construct(named)
        return
    config = config.copy()
    with _building(run):
        if isinstance(workers := config.data.get("workers"), int):
            config.data.workers = min(workers, default_workers())  # those of another machine
        places = replace_cache(config, cache or usual_cache())
    with reading_also(places):
        with _building(run):
            data = construct(config.data)
        yield data


def existing(run: Run | Path | str) -> Run:
    """Return a run, given it or its folder.

    Raises:
        UserError: If no run is in the folder.
    """
    return run if isinstance(run, Run) else Run(str(run))  # type: ignore[arg-type]


def load_method(
    run: Run | Path | str, trust: Trust = False, *, checkpoint: str = "last", weights: str | None = None
) -> Method:
    """Rebuild the trained method of a run, in evaluation mode on the CPU.

    Args:
        run: A run, or its folder.
        trust: Classes besides this project's own that the run may build, or True for all; see trust.py.
        checkpoint: `last`, `best` or another that the run has kept, or a path.
        weights: `averaged` or `ema`, `current` (those that were trained), or None for those that were
            validated, which are averaged ones where the run has them.

    Raises:
        UserError: If the run has no such checkpoint or weights, is damaged, or names what is not allowed.
    """
    run = existing(run)
    cfg = trusted_config(run, trust)
    path = run.checkpoint_at(checkpoint)
    inputs, stored = _trained(run, path, weights)
    for option in WEIGHTS:
        if option in cfg.model:
            cfg.model[option] = None
    with _building(run):
        method = build_method(cfg, **inputs)
    state = {k.removeprefix(PREFIX): v for k, v in stored.items() if k.startswith(PREFIX)}
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit {run.config_path}: {difference(method.state_dict(), state)}",
            expected="a checkpoint of this configuration",
            remedy="restore both from one copy",
        ) from error
    return method.eval()


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Describe in one line how the tensors of a checkpoint differ from those that a model has."""

    def shape(tensors: Mapping[str, Any], name: str) -> str:
        tensor = tensors.get(name)
        return "x".join(map(str, tensor.shape)) or "a number" if isinstance(tensor, Tensor) else "none"

    names = [*dict.fromkeys([*expected, *found])]
    odd = [name for name in names if shape(expected, name) != shape(found, name)]
    first = f", such as {odd[0]}: {shape(expected, odd[0])}, not {shape(found, odd[0])}" if odd else ""
    return f"{len(odd)} of {len(names)} tensors differ{first}"


@contextmanager
def _building(run: Run, path: Path | None = None) -> Iterator[None]:
    """Name the file, config.yaml or `path`, when what it describes cannot be built."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # values of the wrong kind make libraries raise nearly anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # Hydra's first line names the class, its second what went wrong there.
        text = " ".join(lines[:2]) if isinstance(error, InstantiationException) else lines[0]
        raise UserError(
            f"{path or run.config_path}: what it describes cannot be built: {text}",
            expected="a file as train.py wrote it",
            remedy="restore it from a copy",
        ) from error


def restore_data(run: Run, data: Any) -> None:
    """Give data the state that a run's checkpoint keeps of it, such as a vocabulary or the names of classes.

    Raises:
        UserError: If the data does not fit it, such as text of another vocabulary.
    """
    kept = checkpoint_of(run).get(type(data).__qualname__)  # where Lightning puts the data's state
    if kept is not None:
        with _building(run, run.checkpoint):
            data.load_state_dict(kept)


def owner(cfg: DictConfig) -> dict[str, Any]:
    """Return what the files of a run say of it, by which one of another run is noticed."""
    names = {"loss": cfg.loss.name, "model": cfg.model.name, "data": cfg.data.name, "seed": cfg.seed}
    return names | ({ID: cfg[ID]} if ID in cfg else {})


def check_owner(run: Run, kept: Mapping[str, Any], path: Path) -> None:
    """Raise UserError unless `path`, which holds `kept`, is of this run; old ones do not say whose."""
    ours = owner(run.config)
    theirs = kept.get("run", {} if ID in ours else ours)
    if theirs != ours:
        raise UserError(
            f"{path} is of another run: {theirs or 'one that had no id'}",
            expected=f"that of {ours}, as {run.config_path.name} has it",
            remedy=REMEDY,
        )


def is_averaged(run: Run, checkpoint: str = "last") -> bool:
    """Return whether a checkpoint holds averaged weights besides the current ones."""
    return CURRENT in checkpoint_of(run, run.checkpoint_at(checkpoint))


def _trained(run: Run, path: Path, weights: str | None) -> tuple[dict[str, int], Mapping[str, Any]]:
    """Return the inputs of a run's model and its weights, as its checkpoint has them."""
    checkpoint = checkpoint_of(run, path)
    if weights in ("averaged", "ema") and CURRENT not in checkpoint:
        raise UserError(
            f"weights=averaged: {path} holds no averaged weights",
            expected="a run that was trained with callbacks=ema or callbacks=weight_mean",
        )
    inputs: Any = checkpoint.get("inputs")
    state: Any = checkpoint.get("state_dict")
    if weights == "current":
        state = checkpoint.get(CURRENT, state)
    named = isinstance(state, Mapping) and all(isinstance(key, str) for key in state)
    if not (isinstance(inputs, dict) and isinstance(inputs.get("num_classes"), int) and named):
        raise UserError(
            f"{path} does not say what its model reads",
            expected="inputs and state_dict, as train.py writes them",
            remedy=REMEDY,
        )
    return inputs, state


def checkpoint_of(run: Run, path: Path | None = None) -> dict[str, Any]:
    """Return the content of a run's checkpoint, by default the last.

    Raises:
        UserError: If it is missing, damaged or of another run.
    """
    path = path or run.checkpoint
    if path == run.checkpoint and not run.has_checkpoint:
        raise UserError(
            f"run {run.name} has no checkpoint", remedy="train it first: repeat its train.py command"
        )
    content = read_checkpoint(path)
    check_owner(run, content, path)
    return content
