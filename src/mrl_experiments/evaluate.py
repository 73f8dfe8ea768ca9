"""From stored embeddings to result rows."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from omegaconf import DictConfig

from mrl_experiments.build import construct
from mrl_experiments.embeddings import META, TEXT, Embeddings, load
from mrl_experiments.errors import UserError
from mrl_experiments.external.import_run import import_run
from mrl_experiments.files import read_json
from mrl_experiments.nesting import default_dims, interpolated_dims
from mrl_experiments.results import Measurement, ResultRow, read_rows, write_rows
from mrl_experiments.runs import Run, find_runs

DATABASES = ("database", "train")  # splits to search in, the first that is there
EACH = "*"  # in the name of a database: the queries' split
Evaluation = Callable[[Embeddings, Embeddings | None, Sequence[int]], Iterable[Measurement]]


class Fitted(Protocol):
    """A reduction after it has seen the training set."""

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Return the reduced embeddings."""


class Reduction(Protocol):
    """A map fitted on training embeddings; `draws` repeats it with other random numbers."""

    draws: int
    needs_train: bool

    def fit(self, train: Embeddings | None, draw: int) -> Fitted:
        """Return the fitted map; `train` is None only where `needs_train` is false."""


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


def evaluate(cfg: DictConfig, evaluation: str, reduction: str) -> None:
    """Evaluate each run that matches, or files, and replace result rows; all folders are looked up first.

    evaluation, reduction: the names under which rows are filed.
    """
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    measure, reduce = construct(cfg.evaluation), construct(cfg.reduction)
    jobs = list(_jobs(cfg, reduce.needs_train))
    for job in jobs:
        rows = list(_rows(job, measure, reduce, cfg.dims, evaluation, reduction))
        narrow = [
            row
            for part in job.narrow
            for row in _rows(part, measure, reduce, cfg.dims, evaluation, reduction)
        ]
        rows += _with_widest(narrow, rows)
        path = job.run.results(evaluation, job.dataset, reduction)
        write_rows(path, [*_rows_of_other_splits(path, rows), *rows])
        print(f"{path}: {len(rows)} rows", flush=True)


def evaluation_dims(queries: Embeddings, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the sizes to evaluate: those wanted, else those trained and the ones halfway between them.

    A run trained at its full width only is evaluated at all halvings of it, as the paper's baselines are; a
    narrower network inside a run at its own size, if that is wanted at all.
    Raises UserError for sizes beyond the stored width.
    """
    if queries.meta.get("variant"):
        return tuple(dim for dim in queries.trained_dims if wanted is None or dim in wanted)
    if wanted is not None:
        beyond = [dim for dim in wanted if not 1 <= dim <= queries.width]
        if beyond:
            raise UserError(
                f"dims={list(wanted)}: {beyond} not in the stored embeddings of {queries.meta['run']}",
                expected=f"sizes from 1 to {queries.width}",
            )
        return tuple(sorted(set(wanted)))
    trained = queries.trained_dims
    nested = default_dims(queries.width) if trained == (queries.width,) else trained
    return tuple(sorted({*nested, *interpolated_dims(nested)}))


def _rows(
    job: Job,
    measure: Evaluation,
    reduce: Reduction,
    dims: Sequence[int] | None,
    evaluation: str,
    reduction: str,
) -> Iterator[ResultRow]:
    loaded = {folder: load(folder) for folder in {*job.queries, *job.databases, job.train} if folder}
    train = loaded[job.train] if job.train else None
    queries = [loaded[folder] for folder in job.queries]
    sizes = [evaluation_dims(split, dims) for split in queries]
    for number, split in enumerate(queries):
        if sizes[number]:  # what makes an interval of a share
            count = Measurement(sizes[number][-1], "samples", float(len(split)))
            yield _row(split, job.splits[number], count, evaluation, reduction)
    drawn: dict[int, list[ResultRow]] = defaultdict(list)
    for draw in range(reduce.draws):
        fitted = reduce.fit(train, draw)
        databases = {folder: fitted.apply(loaded[folder]) for folder in {*job.databases} if folder}
        for number, split in enumerate(queries):
            if not sizes[number]:
                continue
            name, folder = job.splits[number], job.databases[number]
            database = databases[folder] if folder else None
            for measurement in measure(fitted.apply(split), database, sizes[number]):
                row = _row(split, name, measurement, evaluation, reduction)
                drawn[number].append(row if reduce.draws == 1 else _of_draw(row, draw))
                yield drawn[number][-1]
    if reduce.draws > 1:
        for rows in drawn.values():
            yield from _summaries(rows)


def _row(
    queries: Embeddings, split: str, measurement: Measurement, evaluation: str, reduction: str
) -> ResultRow:
    meta = queries.meta
    return ResultRow(
        run=meta["run"],
        method=meta["method"],
        model=meta["model"],
        dataset=meta["dataset"],
        split=split,
        evaluation=evaluation,
        reduction=reduction,
        dim=measurement.dim,
        trained=reduction == "prefix" and measurement.dim in queries.trained_dims,
        setting=measurement.setting,
        metric=measurement.metric,
        value=measurement.value,
        seed=meta["seed"],
        label=meta.get("label") or "",
    )


def _with_widest(narrow: Sequence[ResultRow], rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Add to the rows of narrower networks those of the widest, which is the run itself."""
    labels = {row.label for row in narrow}
    return [*narrow, *(replace(row, label=label) for row in rows if row.trained for label in labels)]


def _of_draw(row: ResultRow, draw: int) -> ResultRow:
    return replace(row, setting=f"{row.setting} draw={draw}".strip())


def _summaries(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Yield mean and deviation over draws, named as a single draw would be and with `_std`."""
    values: dict[ResultRow, list[float]] = defaultdict(list)
    for row in rows:
        setting = row.setting.rpartition("draw=")[0].strip()
        values[replace(row, setting=setting, value=0.0)].append(row.value)
    for row, drawn in values.items():
        yield replace(row, value=float(np.mean(drawn)))
        yield replace(row, metric=f"{row.metric}_std", value=float(np.std(drawn)))


def _rows_of_other_splits(path: Path, new: Sequence[ResultRow]) -> list[ResultRow]:
    if not path.exists():
        return []
    replaced = {row.split for row in new}
    return [row for row in read_rows(path) if row.split not in replaced]


def _jobs(cfg: DictConfig, needs_train: bool) -> Iterator[Job]:
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
        yield from (_job(cfg, run, needs_train) for run in find_runs(Path(cfg.root), cfg.run))


def _job(cfg: DictConfig, run: Run, needs_train: bool) -> Job:
    """Find the folders of one run. Raises UserError that lists what there is."""
    home = str(run.config.data.name)
    dataset = str(cfg.data.name) if cfg.get("data") else home
    splits = _splits(run, dataset, cfg.variant)
    wanted = cfg.queries or [split for split in splits if split not in DATABASES and not split.endswith(TEXT)]
    if not wanted:
        raise UserError(
            f"run {run.name} has no embeddings of {dataset} besides {splits}",
            expected="a split of queries",
            remedy=f"python embed.py run={run.name} data={dataset}, or queries=[{splits[0]}]",
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
    found = set()
    for path in run.embeddings(dataset, "*").parent.glob(f"*/{META}"):
        meta = read_json(path)
        if meta.get("variant") and meta["tta"] == (variant or "none"):
            found.add(path.parent.name.partition("@")[2])
    return sorted(found)


def _default_database(splits: Sequence[str]) -> str:
    return next((split for split in DATABASES if split in splits), "")


def _splits(run: Run, dataset: str, variant: str) -> list[str]:
    folders = [path.parent for path in run.embeddings(dataset, "*").parent.glob(f"*/{META}")]
    found = [folder.name.partition("@")[0] for folder in folders if folder.name.partition("@")[2] == variant]
    if not found:
        datasets = sorted({path.parts[-3] for path in (run.folder / "embeddings").glob(f"*/*/{META}")})
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}{f' of the variant {variant}' if variant else ''}",
            expected=f"one of {datasets}" if datasets else "embeddings written by embed.py",
            remedy=f"python embed.py run={run.name} data={dataset}",
        )
    return sorted(found)


def _folder(run: Run, dataset: str, split: str, variant: str) -> Path:
    folder = run.embeddings(dataset, split, variant)
    if not (folder / META).exists():
        raise UserError(
            f"run {run.name} has no embeddings of {dataset}/{folder.name}",
            expected=f"one of {_splits(run, dataset, variant)}",
            remedy=f"python embed.py run={run.name} data={dataset} splits=[{split}]",
        )
    return folder
