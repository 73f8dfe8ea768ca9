"""Runs on disk: their names, their folders, and the lock of the process that trains one."""

import difflib
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object, remove_leftovers
from mrl_experiments.identity import differences, fixed_length
from mrl_experiments.locks import acquire
from mrl_experiments.names import check_name, is_name
from mrl_experiments.next_commands import next_command
from mrl_experiments.stored import read_config, write_config

Content = TypeVar("Content")

NAME_MAX, SHORTENED = 255, 200  # bytes of a run's name: what file systems take, and how longer ones end
PRINTED = "paper"  # loss.recipe of runs that were made before there was another
DEFAULT_SLIM_MODE = "switchable"  # of a slimmable network
ID = "id"  # in config.yaml: drawn when a run is begun, repeated by what else is written for it
TRIAL = "debug"  # the run of fast_dev_run and overfit_batches
NEW_NAME = "name this run differently: tag=_second, or auto_tag=true, a tag of the options that are typed"


@dataclass(frozen=True)
class Run:
    """The folder of one training run and the paths inside it.

    Args:
        folder: As text, which somebody typed, it must hold a run; a `Path` may be that of a run to come.

    Raises:
        UserError: If no run is there.

    Example:
        >>> Run("outputs/runs/none")
        Traceback (most recent call last):
        ...
        mrl_experiments.errors.UserError: outputs/runs/none is not a run: it has no config.yaml
          expected: a folder written by train.py
          remedy:   check the path, or train one first: python train.py experiment=digits
    """

    folder: Path

    def __post_init__(self) -> None:
        if isinstance(self.folder, str):
            object.__setattr__(self, "folder", Path(self.folder).expanduser())
            self._require_config("check the path, or train one first: python train.py experiment=digits")

    def _require_config(self, remedy: str) -> None:
        if not self.config_path.exists():
            raise UserError(
                f"{self.folder} is not a run: it has no {self.config_path.name}",
                expected="a folder written by train.py",
                remedy=remedy,
            )

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def root(self) -> Path:
        """The folder whose runs/ it is in: root= of the commands."""
        return self.folder.parents[1]

    @property
    def config_path(self) -> Path:
        """The resolved configuration: the run's identity."""
        return self.folder / "config.yaml"

    @property
    def config(self) -> DictConfig:
        """Read the configuration, read-only: `build.trusted_config` is what may be built from.

        Raises:
            UserError: If the run has none, or one that is damaged (see stored.py).
        """
        self._require_config("restore the file from a copy, or name another run")
        return read_config(self.config_path)

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether it has one, be it a link to what is not there now: no reason to begin anew."""
        return os.path.lexists(self.checkpoint)

    def checkpoint_at(self, name: str) -> Path:
        """Return the checkpoint `last`, `best`, another of this run's folder by its name, or a path to one.

        Raises:
            UserError: If there is none.
        """
        inside = not name.endswith(".ckpt")
        path = self.checkpoint.parent / f"{check_name(name, 'checkpoint')}.ckpt" if inside else Path(name)
        if name == "last" or path.is_file():
            return path
        kept = sorted(path.stem for path in self.checkpoint.parent.glob("*.ckpt"))
        raise UserError(
            f"checkpoint={name}: run {self.name} has no such checkpoint",
            expected=f"a file, or one of {', '.join(kept)}" if kept else "a run that train.py has trained",
            remedy="callbacks=best keeps the best while it trains" if name == "best" else "",
        )

    @property
    def metrics(self) -> Path:
        """What was logged while training."""
        return self.folder / "metrics.csv"

    @property
    def finished(self) -> Path:
        """Exists once training has ended; holds the last validation."""
        return self.folder / "finished.json"

    @property
    def adaptor(self) -> Path:
        """The map of vectors that an adaptor has become, where the run trained one."""
        return self.folder / "adaptor.safetensors"

    @property
    def begun(self) -> bool:
        """Whether anything came of it; what crashed before is no run, and its folder is used again."""
        kept = any(self.checkpoint.parent.glob("*.ckpt"))
        return kept or any(map(os.path.exists, (self.finished, self.folder / "embeddings")))

    def summary(self) -> dict[str, Any] | None:
        """Return what is noted of a finished run, with its last `validation`; None for another.

        Raises:
            UserError: If the note is damaged.
        """
        if not self.finished.exists():
            return None
        remedy = "delete it and repeat the train.py command, which validates the run anew"
        noted = read_object(self.finished, remedy)
        validation = noted.get("validation")
        if not isinstance(validation, dict) or not all(isinstance(v, dict) for v in validation.values()):
            raise UserError(f"{self.finished} is damaged: it holds no validation", remedy=remedy)
        return noted

    def embeddings(self, dataset: str, split: str, suffix: str = "") -> Path:
        """Return the folder of one split's embeddings; `suffix` names a subnetwork, other views, or both."""
        return self.inside("embeddings", dataset, f"{split}@{suffix}" if suffix else split)

    def results(self, evaluation: str, dataset: str, reduction: str) -> Path:
        """Return the file of the result rows of one evaluation."""
        return self.inside("results", f"{evaluation}-{dataset}-{reduction}.csv")

    def inside(self, *names: str) -> Path:
        """Return the path of these names, one below the other, in the run's folder.

        Raises:
            UserError: For names, or links on disk, that lead out of it: names come from stored files too.
        """
        for name in names:
            check_name(name, f"{self.folder}: a folder's name")
        path = self.folder.joinpath(*names)
        try:
            leads_out = not path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError) as error:  # links that lead in a circle
            raise UserError(f"{path} cannot be followed: {error}", remedy="remove its links") from error
        if leads_out:
            raise UserError(
                f"{path} leads out of the run's folder, to {path.resolve()}",
                expected="folders, not links to other places",
                remedy="move what lies there into the run's folder; the run's folder itself may be a link",
            )
        return path

    def check_links(self) -> None:
        """Check that nothing written into the run's folder goes elsewhere.

        Raises:
            UserError: For a link in it, such as for metrics.csv, that leads out of the folder.
        """
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.is_symlink():
                    self.inside(path.name)


def find_runs(root: Path, pattern: str) -> list[Run]:
    """Return the runs under `root`/runs whose names match a glob, sorted.

    A glob leaves out, with one line, folders without a checkpoint and trials; a name finds them.

    Raises:
        UserError: If none matches, with a list of the runs there are.
    """
    runs = root / "runs"
    folders = [path for path in sorted(runs.iterdir()) if path.is_dir()] if runs.is_dir() else []
    closed = [path for path in folders if not os.access(path, os.X_OK)]  # which say so when they are read
    found = [Run(path) for path in folders if path in closed or os.path.lexists(Run(path).config_path)]
    matching = [run for run in found if Path(pattern).parts and run.folder.match(pattern)]
    if pattern not in {run.name for run in matching}:
        idle = [run for run in matching if not run.begun or run.name.split("_")[0] == TRIAL]
        if idle:
            shown = ", ".join(run.name for run in idle)
            print(f"left out, as trials or without a checkpoint: {shown}", file=sys.stderr, flush=True)
        matching = [run for run in matching if run not in idle]
    if not matching:
        names = [run.name for run in found]
        near = difflib.get_close_matches(pattern, names, n=1)
        listed = "\n            ".join(names) or "none yet"
        meant = f"did you mean run={near[0]}? Else " if near else ""
        raise UserError(
            f"run={pattern} matches no run under {runs}",
            expected=f"a name or a glob; there are\n            {listed}",
            remedy=f"{meant}train one first: {next_command('train.py', root)}",
        )
    return matching


def find_run(root: Path | str, name: str) -> Run:
    """Return the one run under `root`/runs of this name.

    Raises:
        UserError: If there is none, or the name is a glob that several match.
    """
    runs = find_runs(Path(root), name)
    if len(runs) > 1:
        raise UserError(f"run={name} matches {len(runs)} runs", expected="the name of one")
    return runs[0]


def readable(
    runs: Sequence[Run], read: Callable[[Run], Content], left_out: list[str]
) -> Iterator[tuple[Run, Content]]:
    """Yield each run with what `read` returns of it.

    One of several that cannot be read is named on standard error and added to `left_out`, for
    `check_none_left_out` after the others are done.

    Raises:
        UserError: If there is one run only, and it cannot be read.
    """
    for run in runs:
        try:
            content = read(run)
        except UserError as error:
            if len(runs) == 1:
                raise
            print(f"error: run {run.name} is left out: {error}", file=sys.stderr, flush=True)
            left_out.append(run.name)
        else:
            yield run, content


def check_none_left_out(left_out: Sequence[str]) -> None:
    """Raise UserError that names the runs that `readable` left out."""
    if left_out:
        raise UserError(
            f"runs that cannot be read were left out: {', '.join(left_out)}",
            expected="whole runs; the others are done",
            remedy="see above for each",
        )


def method_name(cfg: DictConfig) -> str:
    """Name a run's method as tables do: by its option, and by its mode where that is not the paper's."""
    mode = cfg.loss.get("mode", DEFAULT_SLIM_MODE)
    return str(cfg.loss.name) if mode == DEFAULT_SLIM_MODE else f"{cfg.loss.name}_{mode}"


def label_of(cfg: Mapping[Any, Any]) -> str:
    """Return what sets a run apart in its name and in tables: its label, or that it has the paper's recipe.

    `label: ""` says that it is not set apart, as where the paper itself is reproduced. Stored runs of image
    classifiers without the option had the paper's recipe.
    """
    label, loss = cfg.get("label"), cfg.get("loss") or {}
    if label is not None:
        return str(label)
    images = str((cfg.get("model") or {}).get("_target_")).endswith(".TimmBackbone")
    classifies = "label_smoothing" in loss and "widths" not in loss
    return PRINTED if images and classifies and loss.get("recipe", PRINTED) == PRINTED else ""


def run_name(cfg: DictConfig) -> str:
    """Name a run after what makes it: method, model, data, dims and label where given, seed and tag.

    A name longer than file systems take is cut, and a digest of all of it stands in for the rest. Trials
    have one name, whatever they try.

    Raises:
        UserError: For a name that no folder of its own can have.
    """
    if is_trial(cfg):
        return check_name(f"{TRIAL}{cfg.tag}", "the run's name")
    if cfg.run_name:
        return check_name(cfg.run_name, "run_name")
    listed = isinstance(cfg.loss.dims, ListConfig)  # else none, or a rule that makes them
    dims = [cfg.loss.dim] if cfg.loss.dim else list(cfg.loss.dims) if listed else []
    shown = [f"d{'-'.join(map(str, dims))}"] if dims else []
    label = label_of(cfg)
    experiment_label = [re.sub(r"[^\w.+-]+", "-", label)] if label else []
    stem = "_".join([method_name(cfg), str(cfg.model.name), str(cfg.data.name), *shown, *experiment_label])
    name = _of_length(stem, f"_s{cfg.seed}{cfg.tag}")
    return name if is_name(name, NAME_MAX) else check_name(name, "the run's name")


def _of_length(stem: str, end: str) -> str:
    name = stem + end
    if len(name.encode()) <= NAME_MAX:
        return name
    end = f"-{hashlib.sha256(name.encode()).hexdigest()[:10]}{end}"
    return stem.encode()[: max(0, SHORTENED - len(end.encode()))].decode(errors="ignore") + end


def is_trial(cfg: DictConfig) -> bool:
    """Return whether a training only tries something: a few batches, once or again and again."""
    trainer = cfg.get("trainer") or {}
    return bool(trainer.get("fast_dev_run") or trainer.get("overfit_batches"))


def run_of(cfg: DictConfig) -> Run:
    """Return the run that a training configuration describes, whether or not it exists."""
    return Run(Path(cfg.root) / "runs" / run_name(cfg))


@contextmanager
def run_lock(cfg: DictConfig) -> Iterator[None]:
    """Make or reopen the folder of the run that `cfg` describes, and hold it: one process writes into a run.

    What crashed before its first checkpoint is begun anew, and so is every trial. A finished run that may go
    on is no longer finished. A finished run in a place that can only be read needs no lock.

    Raises:
        UserError: If the folder belongs to another configuration or to another process.
    """
    run = run_of(cfg)
    run.check_links()
    with _locked(run) as lock:
        if lock:
            for folder in (run.folder, run.checkpoint.parent):
                remove_leftovers(folder)
        if is_trial(cfg):
            _empty(run)
        if run.begun and not run.config_path.exists():
            raise UserError(
                f"{run.checkpoint} has no {run.config_path.name} beside it that says how it was trained",
                expected="a run's folder with both",
                remedy="restore the file from a copy, or name this run differently: tag=_second",
            )
        begun = run.begun
        if not begun or refuse_other_config(run, cfg):
            ours = OmegaConf.to_container(cfg, resolve=True)
            assert isinstance(ours, dict)
            drawn = run.config.get(ID) if begun else secrets.token_hex(8)
            run.finished.unlink(missing_ok=True)
            write_config(run.config_path, ours | ({ID: drawn} if drawn else {}))
        yield


def _empty(run: Run) -> None:
    """Remove what a trial has left.

    Raises:
        UserError: If the folder holds a run that is none.
    """
    if run.begun and not is_trial(run.config):
        raise UserError(
            f"{run.folder} holds a run that is no trial",
            expected=f"a folder for trainer.fast_dev_run and overfit_batches, which are called {TRIAL}",
            remedy="tag=_second names this trial differently",
        )
    for folder in (run.checkpoint.parent, run.folder / "embeddings", run.folder / "results"):
        if folder.exists():
            shutil.rmtree(folder)
    for file in (run.metrics, run.finished):
        file.unlink(missing_ok=True)


def _locked(run: Run) -> AbstractContextManager[ExitStack | None]:
    try:
        return acquire(run.folder / ".lock", f"trains {run.name}", wait=False)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training {run.name} now: {error.strerror}",
            remedy="wait for it, or choose a tag: tag=_second",
        ) from error
    except UserError:
        if not (run.finished.exists() and run.config_path.exists()):
            raise
        return nullcontext()


def refuse_other_config(run: Run, cfg: DictConfig) -> bool:
    """Return whether `cfg` makes a run that exists longer.

    Raises:
        UserError: If it has another configuration, or one that is longer and cannot go on.
    """
    theirs, ours = OmegaConf.to_container(run.config), OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(theirs, dict) and isinstance(ours, dict)
    differing = differences(theirs, ours)
    if not differing:
        return False
    longer = [*differing] == ["epochs"] and differing["epochs"][0] < differing["epochs"][1]
    if longer and not (why := fixed_length(theirs)):
        return True
    lines = [f"    {key}: {there} there, {now} now" for key, (there, now) in differing.items()]
    shown = "\n".join(lines[:8])
    if longer:
        raise UserError(
            f"{run.folder} holds a run of fewer epochs, which cannot go on: {why}\n{shown}",
            expected="as many epochs, or a schedule without an end: optim=timm optim.schedule=constant",
            remedy=f"to train anew, tag=_{differing['epochs'][1]}epochs; init_from={run.name} starts it "
            "from this run's backbone",
        )
    raise UserError(
        f"{run.folder} holds a run with another configuration:\n{shown}",
        expected="the same configuration to resume it",
        remedy=NEW_NAME,
    )
