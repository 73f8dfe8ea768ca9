"""Which stored embeddings an evaluation reads: queries, databases and training features, as folders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mrl_experiments.embeddings import META, TEXT, read_meta, weights_name
from mrl_experiments.errors import UserError, command_line
from mrl_experiments.external.import_run import import_run
from mrl_experiments.files import sha256
from mrl_experiments.runs import Run, find_runs, readable

DATABASES = ("database", "train")  # splits to search in, the first that is there
IDENTITY = ("run", "method", "model", "dataset", "seed")  # what rows repeat of their embeddings
EACH = "*"  # in the name of a database: the queries' split


@dataclass(frozen=True)
class Job:
    """The embeddings that one run's evaluation reads, as folders.

    splits: what rows call the queries. databases: what each of them is searched in, or None.
    narrow: the same of each narrower network inside the run.
    """

    run: Run
    dataset: str
    splits: tuple[str, ...]
    queries: tuple[Path, ...]
    databases: tuple[Path | None, ...]
    train: Path | None
    narrow: tuple["Job", ...] = ()


def find_jobs(cfg: DictConfig, needs_train: bool, left_out: list[str]) -> Iterator[Job]:
    """Yield one job for each run that matches `run=`, or that of the files of `embeddings=`.

    needs_train: whether the reduction is fitted on training embeddings. left_out: gets the names of runs that
    cannot be read, where several match.
    Raises UserError that lists what there is where something is missing.
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
        yield Job(files.run, files.dataset, (split,), (files.queries,), (files.database,), train)
    else:
        runs = find_runs(Path(cfg.root), cfg.run)
        for run, config in readable(runs, lambda run: run.config, left_out):
            yield _job(cfg, run, str(config.data.name), needs_train)


def _job(cfg: DictConfig, run: Run, home: str, needs_train: bool) -> Job:
    """Find the folders of one run, trained on `home`. Raises UserError that lists what there is."""
    dataset = str(cfg.data.name) if cfg.get("data") else home
    splits = _splits(run, dataset, cfg.variant)
    wanted = cfg.queries or [split for split in splits if split not in DATABASES and not split.endswith(TEXT)]
    if not wanted:
        raise UserError(
            f"run {run.name} has no embeddings of {dataset} besides {splits}",
            expected="a split of queries",
            remedy=f"{_embed(run, dataset)}, or queries=[{splits[0]}]",
        )
    other, _, database = str(cfg.database or _default_database(splits)).rpartition("/")
    databases = [database.replace(EACH, split) for split in wanted]

    def part(variant: str, narrow: tuple[Job, ...] = ()) -> Job:
        return Job(
            run,
            dataset,
            tuple(run.embeddings(dataset, split, cfg.variant).name for split in wanted),
            tuple(_folder(run, dataset, split, variant) for split in wanted),
            tuple(_folder(run, other or dataset, name, variant) if name else None for name in databases),
            _folder(run, home, "train", variant) if needs_train else None,
            narrow,
        )

    return part(cfg.variant, tuple(map(part, _narrow_variants(run, dataset, cfg.variant))))


def _narrow_variants(run: Run, dataset: str, variant: str) -> list[str]:
    """Return the variants that are narrower networks inside the run, seen from the same views."""
    metas = map(read_meta, _embedded(run, dataset))
    return sorted({_part(m) for m in metas if m.get("variant") and _part({**m, "variant": None}) == variant})


def _part(meta: Mapping[str, Any]) -> str:
    """Return what embeddings are of besides their split: a narrower network, other views or weights."""
    tta = meta.get("tta", "none")
    parts = (meta.get("variant"), tta if tta != "none" else "", weights_name(meta))
    return "-".join(filter(None, parts))


def _default_database(splits: Sequence[str]) -> str:
    return next((split for split in DATABASES if split in splits), "")


def _embedded(run: Run, dataset: str) -> list[Path]:
    """Return the folders of embeddings, without those that are still being written."""
    folders = [path.parent for path in run.embeddings(dataset, "*").parent.glob(f"*/{META}")]
    return [folder for folder in folders if not folder.name.startswith(".")]


def _splits(run: Run, dataset: str, variant: str) -> list[str]:
    suffix = f"@{variant}" if variant else ""
    folders = [folder.name for folder in _embedded(run, dataset) if _part(read_meta(folder)) == variant]
    found = [name.removesuffix(suffix) for name in folders if name.endswith(suffix)]
    if not found:
        datasets = sorted({path.parts[-3] for path in (run.folder / "embeddings").glob(f"*/*/{META}")})
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}{f' of the variant {variant}' if variant else ''}",
            expected=f"one of {datasets}" if datasets else "embeddings written by embed.py",
            remedy=_embed(run, dataset),
        )
    return sorted(found)


def _folder(run: Run, dataset: str, split: str, variant: str) -> Path:
    folder = run.embeddings(dataset, split, variant)
    remedy = f"{_embed(run, dataset)} splits=[{split}]"
    if not (folder / META).exists():
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}/{folder.name}",
            expected=f"one of {_splits(run, dataset, variant)}",
            remedy=remedy,
        )
    _check_origin(run, folder, remedy)
    return folder


def _embed(run: Run, dataset: str) -> str:
    return command_line("embed.py", {"run": run.name, "data": dataset})


def _check_origin(run: Run, folder: Path, remedy: str) -> None:
    """Raise UserError where folders of embeddings were exchanged, between runs or inside one.

    Renamed runs and copied splits are taken as what their folders say.
    """
    meta = read_meta(folder)
    if missing := [key for key in IDENTITY if key not in meta]:
        raise UserError(f"{folder / META} does not say the {missing[0]} of its run", remedy=remedy)
    home = _home(run, folder, meta)
    exchanged = home != folder and (home / META).exists() and _home(run, home, read_meta(home)) != home
    foreign = meta["run"] != run.name and run.checkpoint.is_file()
    if exchanged or (
        foreign and meta.get("weights") != sha256(run.checkpoint_at(meta.get("checkpoint", "last")))
    ):
        raise UserError(
            f"{folder} holds embeddings of {meta['run']}, {home.parent.name}/{home.name}", remedy=remedy
        )


def _home(run: Run, folder: Path, meta: Mapping[str, Any]) -> Path:
    """Return where embed.py wrote the embeddings of a meta file."""
    part = _part(meta)
    split = meta.get("split", folder.name.removesuffix(f"@{part}"))  # which old files do not say
    return run.embeddings(meta["dataset"], split, part)
