"""The folders of embeddings that an evaluation reads: queries, databases, training features."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mrl_experiments.embeddings import DATABASES, META, TEXT, read_meta, weights_name
from mrl_experiments.errors import UserError
from mrl_experiments.external.import_run import import_run
from mrl_experiments.files import sha256
from mrl_experiments.next_commands import data_options, next_command
from mrl_experiments.runs import Run, find_runs, readable

IDENTITY = ("run", "method", "model", "dataset", "seed")  # what rows repeat of their embeddings
EACH = "*"  # in the name of a database: the queries' split


@dataclass(frozen=True)
class Part:
    """One split to evaluate.

    Attributes:
        split: What rows call it.
        queries: The folder of its embeddings.
        database: The folder of what it is searched in, or None.
    """

    split: str
    queries: Path
    database: Path | None


@dataclass(frozen=True)
class Job:
    """The embeddings that one run's evaluation reads.

    Attributes:
        run: The run.
        dataset: Of the queries.
        parts: The queries of each split, and what they are searched in.
        train: The folder of the embeddings that a reduction is fitted on, if it needs any.
        subnetworks: The same of each subnetwork, such as the narrower widths of a slimmable one.
    """

    run: Run
    dataset: str
    parts: tuple[Part, ...]
    train: Path | None
    subnetworks: tuple["Job", ...] = ()


def find_jobs(cfg: DictConfig, needs_train: bool, left_out: list[str]) -> Iterator[Job]:
    """Yield one job for each run that matches `run=`, or that of the files of `embeddings=`.

    Args:
        cfg: conf/evaluate.yaml, composed.
        needs_train: Whether the reduction is fitted on training embeddings.
        left_out: Receives the names of runs that cannot be read, or have no such embeddings, where several
            match.

    Raises:
        UserError: If something is missing, with a list of what is there.
    """
    if bool(cfg.run) == bool(cfg.embeddings):
        raise UserError(
            "both run= and embeddings= are given" if cfg.run else "there is nothing to evaluate",
            expected="either run=<name or glob of runs>, or embeddings=<file> database=<file>",
        )
    unused = ("data", "queries", "variant") if cfg.embeddings else ("train",)
    if given := [f"{option}={cfg[option]}" for option in unused if cfg.get(option)]:
        way = "embeddings=" if cfg.embeddings else "run="
        raise UserError(f"{given[0]} has no meaning with {way}")
    if cfg.embeddings:
        files = import_run(cfg)
        train = files.train if needs_train else None
        split = files.queries.name
        yield Job(files.run, files.dataset, (Part(split, files.queries, files.database),), train)
    else:
        runs = find_runs(Path(cfg.root), cfg.run)
        for _, job in readable(runs, lambda run: _job(cfg, run, needs_train), left_out):
            yield job


def _job(cfg: DictConfig, run: Run, needs_train: bool) -> Job:
    """Find the folders of one run."""
    home = str(run.config.data.name)
    dataset = str(cfg.data.name) if cfg.get("data") else home
    splits = _splits(run, dataset, cfg.variant)
    wanted = cfg.queries or [split for split in splits if split not in DATABASES and not split.endswith(TEXT)]
    if not wanted:
        raise UserError(
            f"run {run.name} has no embeddings of {dataset} besides {splits}",
            expected="a split of queries",
            remedy=f"{_embed(run, dataset)}; or 'queries=[{splits[0]}]'",
        )
    usual = next((split for split in DATABASES if split in splits), "")
    other, _, database = str(cfg.database or usual).rpartition("/")

    def part(split: str, suffix: str) -> Part:
        name = database.replace(EACH, split)
        return Part(
            run.embeddings(dataset, split, cfg.variant).name,
            _folder(run, dataset, split, suffix),
            _folder(run, other or dataset, name, suffix) if name else None,
        )

    def job(suffix: str, subnetworks: tuple[Job, ...] = ()) -> Job:
        train = _folder(run, home, "train", suffix) if needs_train else None
        return Job(run, dataset, tuple(part(split, suffix) for split in wanted), train, subnetworks)

    return job(cfg.variant, tuple(map(job, _subnetworks(run, dataset, cfg.variant))))


def _subnetworks(run: Run, dataset: str, variant: str) -> list[str]:
    """Return the suffixes of the embeddings of subnetworks with the views and weights of `variant`."""
    metas = map(read_meta, _embedded(run, dataset))
    return sorted(
        {_suffix(m) for m in metas if m.get("variant") and _suffix({**m, "variant": None}) == variant}
    )


def _suffix(meta: Mapping[str, Any]) -> str:
    """Return what stands behind the @ in a folder's name: a subnetwork, other views or weights."""
    tta = meta.get("tta", "none")
    parts = (meta.get("variant"), tta if tta != "none" else "", weights_name(meta))
    return "-".join(filter(None, parts))


def _embedded(run: Run, dataset: str) -> list[Path]:
    """Return the folders of embeddings, without those that are still being written."""
    folders = [path.parent for path in run.embeddings(dataset, "*").parent.glob(f"*/{META}")]
    return [folder for folder in folders if not folder.name.startswith(".")]


def _splits(run: Run, dataset: str, suffix: str) -> list[str]:
    folders = [folder.name for folder in _embedded(run, dataset) if _suffix(read_meta(folder)) == suffix]
    end = f"@{suffix}" if suffix else ""
    found = [name.removesuffix(end) for name in folders if name.endswith(end)]
    if not found:
        datasets = sorted({path.parts[-3] for path in (run.folder / "embeddings").glob(f"*/*/{META}")})
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}{f' with variant={suffix}' if suffix else ''}",
            expected=f"one of {datasets}" if datasets else "embeddings written by embed.py",
            remedy=_embed(run, dataset),
        )
    return sorted(found)


def _folder(run: Run, dataset: str, split: str, suffix: str) -> Path:
    folder = run.embeddings(dataset, split, suffix)
    if not (folder / META).exists():
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}/{folder.name}",
            expected=f"one of {_splits(run, dataset, suffix)}",
            remedy=_embed(run, dataset, split),
        )
    _check_origin(run, folder, dataset, split)
    return folder


def _embed(run: Run, dataset: str, split: str | None = None) -> str:
    options = data_options(dataset, str(run.config.data.name))
    files = {"data.root": "/path/to/images"} if "data.name" in options else {}
    command = next_command("embed.py", run.root, {"run": run.name, **options, **files})
    return command if split is None else f"{command} {shlex.quote(f'splits=[{split}]')}"


def _check_origin(run: Run, folder: Path, dataset: str, split: str) -> None:
    """Raise UserError where folders of embeddings were exchanged, between runs or inside one.

    Renamed runs and copied splits are taken as what their folders say.
    """
    meta = read_meta(folder)
    if missing := [key for key in IDENTITY if key not in meta]:
        raise UserError(
            f"{folder / META} does not say the {missing[0]} of its run", remedy=_embed(run, dataset, split)
        )
    home = _home(run, folder, meta)
    exchanged = home != folder and (home / META).exists() and _home(run, home, read_meta(home)) != home
    foreign = meta["run"] != run.name and run.checkpoint.is_file()
    if exchanged or (
        foreign and meta.get("weights") != sha256(run.checkpoint_at(meta.get("checkpoint", "last")))
    ):
        raise UserError(
            f"{folder} holds embeddings of {meta['run']}, {home.parent.name}/{home.name}",
            remedy=_embed(run, dataset, split),
        )


def _home(run: Run, folder: Path, meta: Mapping[str, Any]) -> Path:
    """Return where embed.py wrote the embeddings of a meta file."""
    suffix = _suffix(meta)
    split = meta.get("split", folder.name.removesuffix(f"@{suffix}"))  # old files do not say it
    return run.embeddings(meta["dataset"], split, suffix)
