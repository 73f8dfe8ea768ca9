"""Evaluate stored embeddings: result rows of runs and of files."""

import functools
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from mrl_experiments.construct import construct
from mrl_experiments.embeddings import FEATURES, Embeddings, load, read_meta
from mrl_experiments.errors import UserError
from mrl_experiments.evaluation_jobs import Job, Part, find_jobs
from mrl_experiments.evaluation_tables import tables
from mrl_experiments.evaluations import Evaluation
from mrl_experiments.examples import Examples, Sheet, read_sheets, write_sheets
from mrl_experiments.files import require_writable
from mrl_experiments.locks import acquire
from mrl_experiments.loops import loops_shown
from mrl_experiments.nesting import default_dims, interpolated_dims
from mrl_experiments.next_commands import next_command
from mrl_experiments.notices import print_once
from mrl_experiments.results import (
    DRAW,
    Measurement,
    ResultRow,
    mean_and_deviation,
    read_rows,
    with_new_rows,
    write_rows,
)
from mrl_experiments.runs import check_none_left_out
from mrl_experiments.search.shards import processes

Found = tuple[str, Embeddings, Embeddings | None, Examples]  # of a split, its queries and their database
FILED_AS = {"trained_head": "linear"}  # its former name, so that old rows and new ones stand in one table
USER_ERROR = 2  # the exit status
DIGEST = 16  # digits of the checksum of embeddings that a row keeps


class Fitted(Protocol):
    """A reduction after it has seen the training set."""

    @property
    def setting(self) -> Mapping[str, str]:
        """What rows say of it, where one reduction has several maps."""

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Return the reduced embeddings."""


class Reduction(Protocol):
    """A map fitted on training embeddings.

    Attributes:
        draws: How often it is fitted, each time with other random numbers.
        needs_train: Whether it reads training embeddings.
    """

    draws: int
    needs_train: bool

    def fit(self, train: Embeddings | None, draw: int) -> Fitted:
        """Return the fitted map; `train` is None only where `needs_train` is false."""


@dataclass(frozen=True)
class Chosen:
    """One evaluation of embeddings after one reduction, as a command names them.

    Attributes:
        cfg: conf/evaluate.yaml, composed.
        evaluation: The name under which rows are filed; see FILED_AS.
        reduction: As `evaluation`.
    """

    cfg: DictConfig
    evaluation: str
    reduction: str


@dataclass(frozen=True)
class _Task:
    """What is measured of one run, and the file of its rows. cfg: of the command."""

    job: Job
    measure: Evaluation
    reduce: Reduction
    cfg: DictConfig
    evaluation: str
    reduction: str

    @property
    def path(self) -> Path:
        return self.job.run.results(self.evaluation, self.job.dataset, self.reduction)


def evaluate(cfg: DictConfig, evaluation: str, reduction: str) -> None:
    """Evaluate each run that matches, or files, by one evaluation; see `evaluate_all`."""
    evaluate_all([Chosen(cfg, evaluation, reduction)])


def evaluate_all(chosen: Sequence[Chosen]) -> None:
    """Evaluate each run that matches, or files, and file the rows; all folders are looked up first.

    A row takes the place of the former one of the same measurement, others stay. What was measured is printed
    as a table by dim, unless `quiet`.

    Args:
        chosen: One or several evaluations of the same runs.

    Raises:
        UserError: If something is missing or damaged; of several runs or evaluations, the others come first.
    """
    with _processes(chosen[0].cfg.get("trainer")) as first:
        _evaluate_all(chosen, first)


@contextmanager
def _processes(trainer: DictConfig | None) -> Iterator[AbstractContextManager[Any]]:
    """Start the processes that a trainer asks for, among which searches share their queries (`shards`).

    Yields what the first process does before the others. These print and write nothing.
    """
    if trainer is None:
        yield nullcontext()
        return
    from mrl_experiments.embed import build_fabric
    from mrl_experiments.training.processes import together

    on_cpus = {**trainer, "accelerator": "cpu", "precision": "32-true"}
    fabric = build_fabric(OmegaConf.create(on_cpus))
    with together(fabric.strategy, fabric.world_size), ExitStack() as stack:
        fabric.launch()
        if not fabric.global_rank:
            yield fabric.rank_zero_first()
            return
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            yield fabric.rank_zero_first()
        except UserError:  # which the first process tells
            raise SystemExit(USER_ERROR) from None


def _evaluate_all(chosen: Sequence[Chosen], first: AbstractContextManager[Any]) -> None:
    left_out: list[str] = []
    with first:
        tasks = [task for one in chosen for task in _tasks(one, left_out)]
    for task in tasks:
        require_writable(task.path.parent)
        _rows_there(task.path)  # a damaged file ends the command before there is work to lose
    quiet, root = bool(chosen[0].cfg.quiet), str(chosen[0].cfg.root)
    opened, failed = functools.cache(load), []
    with loops_shown(not quiet):
        for task in tasks:
            try:
                _evaluate(task, opened, quiet)
            except UserError as error:
                if len(tasks) == 1:
                    raise
                if not processes()[0]:
                    print(
                        f"error: {task.job.run.name} {task.evaluation}: {error}", file=sys.stderr, flush=True
                    )
                failed.append(f"{task.evaluation} of {task.job.run.name}")
    if not quiet and len(failed) < len(tasks):
        print(f"\nnext: {next_command('report.py', root)}", flush=True)
    check_none_left_out([*dict.fromkeys(left_out)])
    if failed:
        raise UserError(
            f"{len(failed)} of {len(tasks)} evaluations failed: {', '.join(failed)}",
            expected="see above for each; the others are done",
        )


def _tasks(chosen: Chosen, left_out: list[str]) -> Iterator[_Task]:
    cfg, evaluation = chosen.cfg, FILED_AS.get(chosen.evaluation, chosen.evaluation)
    measure, reduce = construct(cfg.evaluation), construct(cfg.reduction)
    for job in find_jobs(cfg, reduce.needs_train, left_out):
        yield _Task(job, measure, reduce, cfg, evaluation, chosen.reduction)


def _evaluate(task: _Task, opened: Callable[[Path], Embeddings], quiet: bool) -> None:
    """Measure, file the rows, and print what was found."""
    found: list[Found] = []
    rows = list(_rows(task, task.job, opened, found))
    of_subnetworks = [row for subnetwork in task.job.subnetworks for row in _rows(task, subnetwork, opened)]
    rows += _with_full_network(of_subnetworks, rows)
    if processes()[0]:
        return
    current, sheets = _current(task.job), _sheets(task, found)
    with acquire(task.job.run.folder / ".results.lock", f"writes {task.path}"):
        there = with_new_rows(_rows_there(task.path), rows)
        filed = [row for row in there if row.embeddings in current.get(row.split, {row.embeddings})]
        write_rows(task.path, filed)
        if sheets:
            replaced = {sheet.split for sheet in sheets}
            write_sheets(
                task.path, [*(s for s in read_sheets(task.path) if s.split not in replaced), *sheets]
            )
    if not quiet:
        for table in tables(rows):
            print(table)
    kept = f", and {len(filed) - len(rows)} of before" if len(filed) > len(rows) else ""
    print(f"{task.path}: {len(rows)} rows{kept}", flush=True)
    if stale := len(there) - len(filed):
        print(f"{stale} rows of before are left out: the embeddings they were measured on are replaced")


def evaluation_dims(queries: Embeddings, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the dims to evaluate: those wanted, else those trained and the ones halfway between them.

    A run trained at its full width only is evaluated at all halvings of it, as the paper's baselines are; a
    subnetwork at its width, if that is among those wanted.

    Raises:
        UserError: For dims beyond the stored width.
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
    task: _Task, job: Job, opened: Callable[[Path], Embeddings], found: list[Found] | None = None
) -> Iterator[ResultRow]:
    """Yield the rows of a job; `found` receives the examples, of the first draw."""
    searched = {part.database for part in job.parts if part.database}
    folders = {*searched, *(part.queries for part in job.parts), *([job.train] if job.train else [])}
    loaded = {folder: opened(folder) for folder in folders}
    train = loaded[job.train] if job.train else None
    dims_of = {part: evaluation_dims(loaded[part.queries], task.cfg.dims) for part in job.parts}
    parts = [part for part in job.parts if dims_of[part]]
    for part in parts:  # the number of samples, from which intervals of shares follow
        samples = Measurement(dims_of[part][-1], "samples", float(len(loaded[part.queries])))
        yield _row(task, loaded[part.queries], part.split, samples)
    drawn: dict[Part, list[ResultRow]] = defaultdict(list)
    for draw in range(task.reduce.draws):
        fitted = task.reduce.fit(train, draw)
        databases = {folder: fitted.apply(loaded[folder]) for folder in searched}
        for part in parts:
            queries, database = loaded[part.queries], databases[part.database] if part.database else None
            of_queries = getattr(fitted, "of_queries", fitted)
            searches_itself = part.queries == part.database
            reduced = databases[part.queries] if searches_itself else of_queries.apply(queries)
            for measurement in _finite(task.measure(reduced, database, dims_of[part]), part.split):
                if measurement.examples and found is not None and not draw:
                    found.append((part.split, queries, database, measurement.examples))
                row = _row(task, queries, part.split, measurement)
                drawn_as = {DRAW: draw} if task.reduce.draws > 1 else {}
                row = replace(row, setting={**row.setting, **fitted.setting, **drawn_as})
                drawn[part].append(row)
                yield row
    if task.reduce.draws > 1:
        for rows in drawn.values():
            yield from _summaries(rows)


def _sheets(task: _Task, found: Sequence[Found]) -> list[Sheet]:
    """Return examples as they are stored, with pictures and texts of their samples where these are there."""
    if not found:
        return []
    from mrl_experiments.looks import Origin, with_looks

    cfg = task.cfg
    named = {cfg.names.split: cfg.embeddings, "database": cfg.database} if cfg.embeddings else {}
    files = {split: Path(file) for split, file in named.items() if file}
    origin = Origin(task.job.run, cfg.get("data"), files)
    return [
        Sheet(
            **{name: str(queries.meta[name]) for name in ("run", "method", "model", "dataset")},
            split=split,
            reduction=task.reduction,
            label=queries.meta.get("label") or "",
            seed=queries.meta["seed"],
            examples=with_looks(examples, origin, queries, database),
        )
        for split, queries, database, examples in found
    ]


def _finite(measurements: Iterable[Measurement], split: str) -> Iterator[Measurement]:
    """Leave out values that are not finite, such as the mean of nothing, with a line that says so."""
    for measurement in measurements:
        if math.isfinite(measurement.value):
            yield measurement
        else:
            where = " ".join(filter(None, (split, f"{measurement.dim} dims", str(measurement.setting))))
            print_once(f"{where}: {measurement.metric} is {measurement.value} and gets no row")


def _row(task: _Task, queries: Embeddings, split: str, measurement: Measurement) -> ResultRow:
    meta = queries.meta
    return ResultRow(
        run=meta["run"],
        method=meta["method"],
        model=meta["model"],
        dataset=meta["dataset"],
        split=split,
        evaluation=task.evaluation,
        reduction=task.reduction,
        dim=measurement.dim,
        trained=task.reduction == "prefix" and measurement.dim in queries.trained_dims,
        setting=measurement.setting,
        metric=measurement.metric,
        value=measurement.value,
        seed=meta["seed"],
        label=meta.get("label") or "",
        embeddings=_digest(meta),
    )


def _digest(meta: Mapping[str, Any]) -> str:
    return str(meta.get("checksum", {}).get(FEATURES, ""))[:DIGEST]


def _current(job: Job) -> dict[str, set[str]]:
    """Return, by split, what `embeddings` of a row may be: of the run, of its subnetworks, or not known."""
    digests: dict[str, set[str]] = {}
    for part in (part for one in (job, *job.subnetworks) for part in one.parts):
        digests.setdefault(part.split, {""}).add(_digest(read_meta(part.queries)))
    return digests


def _with_full_network(of_subnetworks: Sequence[ResultRow], rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Add to the rows of subnetworks those of the full network, which is the run itself."""
    labels = {row.label for row in of_subnetworks}
    return [*of_subnetworks, *(replace(row, label=label) for row in rows if row.trained for label in labels)]


def _summaries(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Yield mean and deviation over draws, without the draw in their setting."""
    values: dict[ResultRow, list[float]] = defaultdict(list)
    for row in rows:
        setting = {name: value for name, value in row.setting.items() if name != DRAW}
        values[replace(row, setting=setting, value=0.0)].append(row.value)
    for row, drawn in values.items():
        for metric, value in mean_and_deviation(row.metric, drawn).items():
            yield replace(row, metric=metric, value=value)


def _rows_there(path: Path) -> list[ResultRow]:
    return read_rows(path) if path.exists() else []
