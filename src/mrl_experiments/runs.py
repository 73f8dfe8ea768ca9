"""Runs on disk: their names, their folders, and who may write into them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, read_object, remove_leftovers
from mrl_experiments.locks import acquire

# What may differ between two commands that mean the same run: where it is written, how it is watched.
WATCHING = {
    "": ("root", "debug", "logger", "run_name"),
    "data": ("cache", "workers"),
    "trainer": ("progress", "log_every_n_steps", "checkpoint_minutes"),
}
PAPERS_MODE = "switchable"  # of a slimmable network


@dataclass(frozen=True)
class Run:
    """The folder of one training run and the paths inside it."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def config_path(self) -> Path:
        """The resolved configuration: the run's identity."""
        return self.folder / "config.yaml"

    @property
    def config(self) -> DictConfig:
        """Read the configuration. Raises UserError when the run has none."""
        if not self.config_path.exists():
            raise UserError(f"{self.folder} is not a run", expected="a folder written by train.py")
        config = OmegaConf.load(self.config_path)
        assert isinstance(config, DictConfig)
        return config

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """What was logged while training."""
        return self.folder / "metrics.csv"

    @property
    def finished(self) -> Path:
        """Exists once training has ended; holds the last validation."""
        return self.folder / "finished.json"

    def summary(self) -> dict[str, Any] | None:
        """Return what is noted of a finished run, with its last `validation`; None for another.

        Raises UserError when the note is damaged.
        """
        if not self.finished.exists():
            return None
        remedy = "delete it and repeat the train.py command, which validates the run anew"
        noted = read_object(self.finished, remedy)
        validation = noted.get("validation")
        if not isinstance(validation, dict) or not all(isinstance(v, dict) for v in validation.values()):
            raise UserError(f"{self.finished} is damaged: it holds no validation", remedy=remedy)
        return noted

    def embeddings(self, dataset: str, split: str, variant: str = "") -> Path:
        """Folder of the embeddings of one split; `variant` names a width of a slimmable network or a TTA."""
        return self.folder / "embeddings" / dataset / (f"{split}@{variant}" if variant else split)

    def results(self, evaluation: str, dataset: str, reduction: str) -> Path:
        """File of the result rows of one evaluation."""
        return self.folder / "results" / f"{evaluation}-{dataset}-{reduction}.csv"


def find_runs(root: Path, pattern: str) -> list[Run]:
    """Return the runs under `root`/runs whose names match a glob, sorted.

    Raises UserError that lists the runs there are when none matches.
    """
    runs = root / "runs"
    found = sorted(path.parent for path in runs.glob("*/config.yaml"))
    matching = [Run(folder) for folder in found if folder.match(pattern)]
    if not matching:
        listed = "\n            ".join(folder.name for folder in found) or "none yet"
        raise UserError(
            f"run={pattern} matches no run under {runs}",
            expected=f"a name or a glob; there are\n            {listed}",
            remedy="train one first: python train.py",
        )
    return matching


def method_name(cfg: DictConfig) -> str:
    """Name a run's method as tables do: by its option, and by its mode where that is not the paper's."""
    mode = cfg.loss.get("mode", PAPERS_MODE)
    return str(cfg.loss.name) if mode == PAPERS_MODE else f"{cfg.loss.name}_{mode}"


def run_name(cfg: DictConfig) -> str:
    """Name a run after what makes it: method, model, data, sizes and label where given, seed and tag."""
    if cfg.run_name:
        return str(cfg.run_name)
    listed = isinstance(cfg.loss.dims, ListConfig)  # else none, or a rule that makes them
    sizes = [cfg.loss.dim] if cfg.loss.dim else list(cfg.loss.dims) if listed else []
    shown = [f"d{'-'.join(map(str, sizes))}"] if sizes else []
    label = [re.sub(r"[^\w.+-]+", "-", cfg.label)] if cfg.label else []
    return (
        "_".join([method_name(cfg), cfg.model.name, cfg.data.name, *shown, *label, f"s{cfg.seed}"]) + cfg.tag
    )


def run_of(cfg: DictConfig) -> Run:
    """Return the run that a training configuration describes, whether or not it exists."""
    return Run(Path(cfg.root) / "runs" / run_name(cfg))


class Claim:
    """The right to write into a run's folder, held until the process ends.

    lock: None for a finished run in a place that can only be read.
    """

    def __init__(self, run: Run, lock: IO[str] | None) -> None:
        self.run, self._lock = run, lock


def claim(cfg: DictConfig) -> Claim:
    """Make or reopen the folder of the run that `cfg` describes.

    Raises UserError when the folder belongs to another configuration or to another process.
    """
    run = run_of(cfg)
    lock: IO[str] | None = None
    try:
        lock = acquire(run.folder / ".lock", f"trains {run.name}", wait=False)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training {run.name} now: {error.strerror}",
            remedy="wait for it, or choose a tag: tag=_second",
        ) from error
    except UserError:
        if not (run.finished.exists() and run.config_path.exists()):
            raise
    if lock:
        for folder in (run.folder, run.checkpoint.parent):
            remove_leftovers(folder)
    ours = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(ours, dict)
    if run.config_path.exists():
        theirs = OmegaConf.to_container(run.config)
        assert isinstance(theirs, dict)
        _refuse_other_config(run, identity(theirs), identity(ours))
    else:
        with atomic_path(run.config_path) as path:
            OmegaConf.save(OmegaConf.create(ours), path)
    return Claim(run, lock)


def identity(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Flatten a configuration to {dotted key: value}, without what only concerns watching the run."""
    ignored = {".".join(filter(None, (group, key))) for group, keys in WATCHING.items() for key in keys}
    flat: dict[str, Any] = {}

    def walk(node: Mapping[Any, Any], path: str) -> None:
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            if name in ignored:
                continue
            if isinstance(value, Mapping) and value:
                walk(value, name)
            else:
                flat[name] = value

    walk(config, "")
    return flat


def _refuse_other_config(run: Run, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if differing:
        shown = "\n".join(f"    {key}: {theirs.get(key)} there, {ours.get(key)} now" for key in differing[:8])
        raise UserError(
            f"{run.folder} holds a run with another configuration:\n{shown}",
            expected="the same configuration to resume it",
            remedy="name this run differently: tag=_second",
        )
