"""From stored embeddings to result rows."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from omegaconf import DictConfig

from mrl_experiments.build import construct
from mrl_experiments.embeddings import Embeddings, load
from mrl_experiments.errors import UserError
from mrl_experiments.evaluation_jobs import Job, find_jobs
from mrl_experiments.files import require_writable
from mrl_experiments.locks import exclusive
from mrl_experiments.nesting import default_dims, interpolated_dims
from mrl_experiments.notices import tell
from mrl_experiments.results import DRAW, Measurement, ResultRow, read_rows, write_rows
from mrl_experiments.runs import check_none_left_out

FILED_AS = {"trained_head": "linear"}  # its former name, so that old rows and new ones stand in one table
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


def evaluate(cfg: DictConfig, evaluation: str, reduction: str) -> None:
    """Evaluate each run that matches, or files, and replace result rows; all folders are looked up first.

    evaluation, reduction: the names under which rows are filed; see FILED_AS.
    """
    evaluation = FILED_AS.get(evaluation, evaluation)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    measure, reduce = construct(cfg.evaluation), construct(cfg.reduction)
    left_out: list[str] = []
    jobs = list(find_jobs(cfg, reduce.needs_train, left_out))
    files = [job.run.results(evaluation, job.dataset, reduction) for job in jobs]
    for path in files:
        require_writable(path.parent)
        _rows_of_other_splits(path, [])  # a damaged file ends the command before there is work to lose
    for job, path in zip(jobs, files, strict=True):
        rows = list(_rows(job, measure, reduce, cfg.dims, evaluation, reduction))
        narrow = [
            row
            for part in job.narrow
            for row in _rows(part, measure, reduce, cfg.dims, evaluation, reduction)
        ]
        rows += _with_widest(narrow, rows)
        with exclusive(job.run.folder / ".results.lock", f"writes {path}"):
            write_rows(path, [*_rows_of_other_splits(path, rows), *rows])
        print(f"{path}: {len(rows)} rows", flush=True)
    check_none_left_out(left_out)


def evaluation_dims(queries: Embeddings, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the dims to evaluate: those wanted, else those trained and the ones halfway between them.

    A run trained at its full width only is evaluated at all halvings of it, as the paper's baselines are; a
    narrower network inside a run at its own dim, if that is wanted at all.
    Raises UserError for dims beyond the stored width.
    """
    if queries.meta.get("variant"):
        return tuple(dim for dim in queries.trained_dims if wanted is None or dim in wanted)
    if wanted is not None:
        beyond = [dim for dim in wanted if not 1 <= dim <= queries.width]
        if beyond:
            raise UserError(
                f"dims={list(wanted)}: {beyond} not in the stored embeddings of {queries.meta['run']}",
                expected=f"dims from 1 to {queries.width}",
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
            for measurement in _existing(measure(fitted.apply(split), database, sizes[number]), name):
                row = _row(split, name, measurement, evaluation, reduction)
                drawn[number].append(row if reduce.draws == 1 else _of_draw(row, draw))
                yield drawn[number][-1]
    if reduce.draws > 1:
        for rows in drawn.values():
            yield from _summaries(rows)


def _existing(measurements: Iterable[Measurement], split: str) -> Iterator[Measurement]:
    """Leave out values that do not exist, such as the mean of nothing, and say so: a row holds a number."""
    for measurement in measurements:
        if math.isfinite(measurement.value):
            yield measurement
        else:
            where = " ".join(filter(None, (split, f"{measurement.dim} dims", str(measurement.setting))))
            tell(f"{where}: {measurement.metric} is {measurement.value} and gets no row")


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
    return replace(row, setting={**row.setting, DRAW: draw})


def _summaries(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Yield mean and deviation over draws, named as a single draw would be and with `_std`."""
    values: dict[ResultRow, list[float]] = defaultdict(list)
    for row in rows:
        setting = {name: value for name, value in row.setting.items() if name != DRAW}
        values[replace(row, setting=setting, value=0.0)].append(row.value)
    for row, drawn in values.items():
        yield replace(row, value=float(np.mean(drawn)))
        yield replace(row, metric=f"{row.metric}_std", value=float(np.std(drawn)))


def _rows_of_other_splits(path: Path, new: Sequence[ResultRow]) -> list[ResultRow]:
    if not path.exists():
        return []
    replaced = {row.split for row in new}
    return [row for row in read_rows(path) if row.split not in replaced]
