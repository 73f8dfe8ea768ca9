"""Choice of an index for a budget, and its quality on queries that did not take part in the choice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked

Quality = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""Maps neighbours (Q, k), as positions, and the rows (Q,) of their queries to fractions (Q,)."""

REPEATS = 3
ONE_SIDED_95 = 1.645  # standard errors: the winner of many trials must not owe it to its sample


@dataclass(frozen=True)
class Trial:
    """What one index gave: fractions for quality and loss, milliseconds per query for latency.

    Attributes:
        loss: Quality lost against exact search at full width.
        loss_bound: Upper end of its 95 % interval.
    """

    spec: IndexSpec
    quality: float
    loss: float
    loss_bound: float
    latency: float


@dataclass(frozen=True)
class Budget:
    """Either the quality that may be lost (0.001 is 0.1 points) or the milliseconds that a query may take."""

    max_loss: float | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        if (self.max_loss is None) == (self.max_latency is None):
            raise UserError("a budget needs one limit", expected="either max_loss or max_latency")

    def admits(self, trial: Trial) -> bool:
        """True if a trial keeps the budget."""
        if self.max_loss is not None:
            return trial.loss_bound <= self.max_loss
        return trial.latency <= (self.max_latency or 0)

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Return the admitted trial of least latency (loss budget) or of least loss, if there is one."""
        admitted = filter(self.admits, trials)
        by_latency = self.max_loss is not None
        return min(admitted, key=lambda t: t.latency if by_latency else t.loss, default=None)


@dataclass(frozen=True)
class Family:
    """Indexes that differ only in how they are searched, so that one build serves them all.

    Attributes:
        efforts: Cheapest first.
        plans: The stages to try with each effort.
    """

    spec: IndexSpec
    efforts: Sequence[str]
    plans: Sequence[tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Tuned:
    """The chosen index, its trial on the other half of the queries, and all trials on the tuning half."""

    index: AdaptiveIndex
    held_out: Trial
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Tuner:
    """Chooses on every other query of `queries` (Q, D).

    Attributes:
        exact: (Q, k) positions that exact search at full width finds.
        quality: What a budget speaks of; `recall(exact)` needs no labels.
        threads: Of each search, None for all.
    """

    queries: NDArray[np.float32]
    exact: NDArray[np.int64]
    quality: Quality
    budget: Budget
    threads: int | None = None

    def choose(
        self, database: NDArray[np.float32], families: Sequence[Family], wider: Sequence[Family] = ()
    ) -> Tuned:
        """Return the fastest index within a loss, or the one that loses least within a latency.

        Args:
            database: (N, D).
            families: What is tried.
            wider: What is tried as well where none of these keeps the budget.

        Raises:
            UserError: If none keeps the budget.
        """
        tried: list[tuple[Trial, AdaptiveIndex]] = []
        for number, family in enumerate(tracked([*families, *wider], "trying indexes", len(families))):
            trials = [trial for trial, _ in tried]
            if number == len(families) and self.budget.best(trials):
                break
            index = AdaptiveIndex.build(database, None, family.spec)
            tried += [(trial, index) for trial in self.explore(index, family, trials)]
        trials = [trial for trial, _ in tried]
        chosen = self.budget.best(trials)
        if chosen is None:
            raise self._nothing(trials)
        index = next(index for trial, index in tried if trial is chosen)
        index.configure(chosen.spec.effort, chosen.spec.stages)
        return Tuned(index, self.measure(index, np.arange(1, len(self.queries), 2)), tuple(trials))

    def _nothing(self, trials: Sequence[Trial]) -> UserError:
        loss = 1.01 * min(trial.loss_bound for trial in trials)  # rounded up
        latency = 1.01 * min(trial.latency for trial in trials)
        option = f"max_loss={loss:.3g}" if self.budget.max_latency is None else f"max_latency={latency:.3g}"
        return UserError(
            f"none of {len(trials)} trials keeps {self.budget}",
            expected=f"a loss of at least {loss:.3g} or a latency of at least {latency:.3g} ms",
            remedy=f"allow more: {option} (of evaluate.py: evaluation.{option})",
        )

    def explore(self, index: AdaptiveIndex, family: Family, earlier: Sequence[Trial] = ()) -> list[Trial]:
        """Raise the effort of each plan until more cannot beat what has been tried.

        Where even the longest shortlist with most effort loses too much, that is the only trial.
        """
        rows = np.arange(0, len(self.queries), 2)
        trials: list[Trial] = []
        if self.budget.max_loss is not None:
            index.configure(family.efforts[-1], max(family.plans, key=lambda stages: stages[0][1]))
            most = self.measure(index, rows)
            if not self.budget.admits(most):
                return [most]
        for stages in family.plans:
            for effort in family.efforts:
                index.configure(effort, stages)
                trials.append(self.measure(index, rows))
                if self._settled(trials[-1], [*earlier, *trials]):
                    break
        return trials

    def measure(self, index: AdaptiveIndex, rows: NDArray[np.int64]) -> Trial:
        """Search the queries in `rows` in one batch."""
        queries = self.queries[rows]
        seconds = []
        with threadpool_limits(self.threads):
            for _ in range(REPEATS):
                start = perf_counter()
                found = index.search_stages(queries)
                seconds.append(perf_counter() - start)
        quality = self.quality(found.ids, rows)
        losses = self.quality(self.exact[rows], rows) - quality
        loss, error = float(losses.mean()), float(losses.std() / np.sqrt(len(rows)))
        latency = median(seconds) / len(rows) * 1e3
        return Trial(index.spec, float(quality.mean()), loss, loss + ONE_SIDED_95 * error, latency)

    def _settled(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        """True if more effort is pointless: good enough, or slower than allowed or than the best."""
        if self.budget.max_loss is None:
            return not self.budget.admits(trial)
        best = self.budget.best(trials)
        return best is not None and trial.latency >= best.latency


def recall(exact: NDArray[np.int64]) -> Quality:
    """Return the quality that needs no labels: the share of `exact` (Q, k) that is found."""

    def share(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return (found[:, :, None] == exact[rows][:, None, :]).any(axis=1).mean(axis=1)

    return share
