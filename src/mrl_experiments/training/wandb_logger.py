"""Weights & Biases beside metrics.csv: whatever it lacks is one line, and training goes on."""

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run

MODES = ("auto", "online", "offline", "disabled", "shared")
ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's own, of old
INIT_SECONDS, FINISH_SECONDS = 5, 60  # W&B waits up to 10 s longer than asked for its first answer
CSV_ONLY = "metrics go to metrics.csv only"
LONGEST = 64  # characters of an id


class Wandb(WandbLogger):
    """Lightning's logger, which falls silent after one line where W&B fails in the middle of a run."""

    failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Send metrics to W&B."""
        self._send(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Send what the run is made with to W&B."""
        self._send(super().log_hyperparams, params)

    def _send(self, log: Callable[..., None], *values: Any) -> None:
        if self.failed:
            return
        try:
            log(*values)
        except Exception as error:
            self.failed = True
            _say(error, "nothing more is sent to it")


def wandb_logger(run: Run, *, project: str | None, entity: str | None, mode: str) -> WandbLogger | None:
    """Start W&B for a run and return its logger; None in the other processes and where W&B is of no use.

    A server that does not answer within some seconds makes the run offline. Raises UserError for an unknown
    mode.
    """
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return None
    modes = {"logger.wandb.mode": mode, "WANDB_MODE": os.environ.get("WANDB_MODE") or "auto"}
    for name, value in modes.items():
        if value not in MODES and value not in ALIASES:
            raise UserError(f"{name}={value}", expected=f"one of {', '.join(MODES)}")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except Exception as error:  # also what a broken installation raises
        _say(error, CSV_ONLY)
        return None
    for tried in dict.fromkeys((mode, "offline")):
        try:
            return _start(wandb, run, tried, project=project, entity=entity)
        except Exception as error:
            _say(error, CSV_ONLY if tried == "offline" else "logging offline")
            with suppress(Exception):
                wandb.teardown()  # else it keeps the run's id for itself
    return None


def log_report(start: Callable[[Run], WandbLogger | None], folder: Path) -> None:
    """Send a report's page, tables and figures to W&B as one artifact, `report`; what fails is one line.

    Args:
        start: `wandb_logger` with its options.
        folder: The report, whose name the W&B run has.
    """
    if (logger := start(Run(folder.absolute()))) is None:
        return
    try:
        import wandb

        artifact = wandb.Artifact("report", type="report")
        for path in sorted([*folder.glob("*.*"), *folder.glob("tables/*"), *folder.glob("figures/*")]):
            if path.is_file() and not path.name.startswith("."):
                artifact.add_file(str(path), name=str(path.relative_to(folder)))
        logger.experiment.log_artifact(artifact)
        logger.experiment.finish()
        print(f"W&B: the report is the artifact {artifact.name} of the run {folder.name}", flush=True)
    except Exception as error:
        _say(error, "the report is not sent to it")


def _start(wandb: Any, run: Run, mode: str, **account: Any) -> WandbLogger | None:
    if mode == "auto":  # as environment variables and settings have it, but offline without a key
        mode = wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False):
            mode = "offline"
    mode = ALIASES.get(mode, mode)
    if mode == "disabled":
        return None
    seconds = float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS))
    logger = Wandb(
        **account,
        name=run.name,
        id=wandb_id(run.name),
        resume=None if mode == "offline" else "allow",
        save_dir=run.folder,
        mode=mode,
        settings=wandb.Settings(init_timeout=seconds, finish_timeout=FINISH_SECONDS),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning still passes what wandb now warns about
    _ = logger.experiment  # now, before any work is spent
    return logger


def wandb_id(name: str) -> str:
    """Return an id that W&B takes: a run's name, or what is legal of it with a checksum of the whole."""
    legal = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", name)
    if legal == name and len(name) <= LONGEST:
        return name
    checksum = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{legal[: LONGEST - 9]}-{checksum}"


def _say(error: Exception, consequence: str) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"W&B: {text[:200]}; {consequence}", flush=True)
