"""Choice of an index for a budget, and the test on other queries that it keeps the budget."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mrl_experiments.adaptive.bounds import least_samples, p_value, upper_bound
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.promise import Setting
from mrl_experiments.adaptive.retrieval.quality import Quality
from mrl_experiments.adaptive.retrieval.spec import IndexSpec, split_effort
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked

REPEATS = 3
FAR = 1.5  # times the best latency, from which on one measurement will do
SHARE = 3  # one query in so many chooses, the others test
RUNGS = 8  # settings of the chosen index that are tested at most


@dataclass(frozen=True)
class Trial:
    """What one index gave: fractions for quality and loss, milliseconds per query for latency.

    Attributes:
        loss: Quality lost against exact search at full width, a mean over queries.
        likely: A loss that the queries that test can be expected to show: a guide for the choice, which
            promises nothing. That of exact search is 0.
        losses: (Q,) that of each query.
    """

    spec: IndexSpec
    quality: float
    loss: float
    likely: float
    latency: float
    losses: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def exact(self) -> bool:
        """True if all vectors are compared whole, which loses nothing by definition."""
        return self.spec.exact


@dataclass(frozen=True)
class Budget:
    """Either the quality that may be lost (0.001 is 0.1 points) or the milliseconds that a query may take.

    Attributes:
        confidence: With which a loss is kept.
    """

    max_loss: float | None = None
    max_latency: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if (self.max_loss is None) == (self.max_latency is None):
            raise UserError("a budget needs one limit", expected="either max_loss or max_latency")
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence={self.confidence}", expected="a number between 0 and 1")

    def admits(self, trial: Trial) -> bool:
        """True if a trial is likely to keep the budget."""
        if self.max_loss is not None:
            return trial.likely <= self.max_loss
        return trial.latency <= (self.max_latency or 0)

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Return the admitted trial of least latency (loss budget) or of least loss, if there is one."""
        admitted = filter(self.admits, trials)
        by_latency = self.max_loss is not None
        return min(admitted, key=lambda t: t.latency if by_latency else t.loss, default=None)

    def shown(self, losses: NDArray[np.float64], binary: bool) -> bool:
        """True if these losses (Q,) show, with confidence, that the expected one is below the budget."""
        most, delta = self.max_loss or 0.0, 1 - self.confidence
        return most >= 1 or (most > 0 and p_value(losses, most, delta, binary=binary) <= delta)


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

    @property
    def exact(self) -> bool:
        """True if all vectors are compared whole."""
        return self.spec.exact

    @property
    def most(self) -> Setting:
        """The setting that loses least: most effort and the longest shortlist."""
        return self.efforts[-1], max(self.plans, key=lambda stages: (stages[0][1], -len(stages)))


@dataclass(frozen=True)
class Tuned:
    """The chosen index.

    Attributes:
        held_out: Its trial on the queries that tested it.
        trials: All trials on those that chose.
        rungs: What was tested in turn, and whether each is shown to keep the budget.
        smallest: Where only exact search keeps the budget or none does, the smallest loss that the tested
            queries certify for another index.
    """

    index: AdaptiveIndex
    held_out: Trial
    trials: tuple[Trial, ...]
    rungs: tuple[tuple[IndexSpec, bool], ...] = ()
    smallest: float | None = None

    @property
    def kept_settings(self) -> tuple[Setting, ...]:
        """The settings of the index that keep the budget, from the one that loses least to the chosen one."""
        chosen, kept = self.index.spec, [spec for spec, shown in self.rungs if shown]
        own = [
            (spec.effort, spec.stages)
            for spec in kept
            if (spec.codes, spec.dims) == (chosen.codes, chosen.dims)
        ]
        return tuple(own[: own.index((chosen.effort, chosen.stages)) + 1])


@dataclass(frozen=True)
class Tuner:
    """Chooses by a third of `queries` (Q, D), drawn at random, and tests on the others what it has chosen.

    A loss within a budget is promised with confidence. Whatever the third chooses, the test has not seen: it
    begins with the setting that loses least and goes on to faster ones until the first that is not shown to
    keep the budget (Angelopoulos et al., "Learn then Test", arXiv 2110.01052, fixed-sequence testing), each
    by a bound that holds for any number of queries and rare losses. So all that is passed keeps the budget
    at once, and the fastest of it is taken. Queries must be independent draws.

    Attributes:
        exact: What exact search at full width finds, (Q, k) similarities and positions.
        quality: What a budget speaks of; `recall(exact)` needs no labels.
        threads: Of each search, None for all.
        binary: The quality of a query is 0 or 1, and never better than that of exact search.
        seed: Of the draw of the third.
        clock: What times searches.
    """

    queries: NDArray[np.float32]
    exact: Candidates
    quality: Quality
    budget: Budget
    threads: int | None = None
    binary: bool = False
    seed: int = 0
    clock: Callable[[], float] = perf_counter

    @cached_property
    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of the queries that choose, and of those that test, at random."""
        order = np.random.default_rng(self.seed).permutation(len(self.queries))
        cut = max(1, len(order) // SHARE)
        return order[:cut], order[cut:]

    def choose(
        self, database: NDArray[np.float32], families: Sequence[Family], wider: Sequence[Family] = ()
    ) -> Tuned:
        """Return the fastest index within a loss, or the one that loses least within a latency.

        Args:
            database: (N, D).
            families: What is tried.
            wider: What is tried as well where none of these is likely to keep the budget.

        Raises:
            UserError: If none keeps the budget.
        """
        tried: list[tuple[Trial, AdaptiveIndex, Family]] = []
        everything = [*families, *wider]
        for number, family in enumerate(tracked(everything, "trying indexes", len(everything))):
            trials = [trial for trial, *_ in tried]
            if number == len(families) and self.budget.best(trials):
                break
            index = self.build(database, family)
            tried += [(trial, index, family) for trial in self.explore(index, family, trials)]
        if self.budget.max_loss is not None:
            return self._certified(
                tried, database, [family for family in (*families, *wider) if family.exact]
            )
        trials = [trial for trial, *_ in tried]
        chosen = self.budget.best(trials)
        if chosen is None:
            raise self._nothing(trials, None)
        index = next(index for trial, index, _ in tried if trial is chosen)
        index.configure(chosen.spec.effort, chosen.spec.stages)
        return Tuned(index, self.measure(index, self.parts[1]), tuple(trials))

    def build(self, database: NDArray[np.float32], family: Family) -> AdaptiveIndex:
        """Return the index of a family."""
        return AdaptiveIndex.build(database, None, family.spec)

    def _certified(
        self,
        tried: Sequence[tuple[Trial, AdaptiveIndex, Family]],
        database: NDArray[np.float32],
        exact: Sequence[Family],
    ) -> Tuned:
        """Return the fastest of the settings shown to keep the budget, or exact search if none is."""
        trials = tuple(trial for trial, *_ in tried)
        others = [entry for entry in tried if not entry[0].exact]
        outcomes: list[tuple[IndexSpec, bool]] = []
        kept: list[tuple[Trial, AdaptiveIndex]] = []
        smallest = None
        for index, rung in self._rungs(others):
            index.configure(*rung)
            trial = self.measure(index, self.parts[1])
            outcomes.append((index.spec, self.budget.shown(trial.losses, self.binary)))
            if not outcomes[-1][1]:
                if not kept:
                    smallest = upper_bound(trial.losses, 1 - self.budget.confidence, binary=self.binary)
                break
            kept.append((trial, index))
        if exact:
            whole = self.build(database, exact[0])
            kept.append((self.measure(whole, self.parts[1], 0.0), whole))
        if not kept:
            raise self._nothing(trials, smallest)
        held_out, index = min(kept, key=lambda pair: pair[0].latency)
        index.configure(held_out.spec.effort, held_out.spec.stages)
        return Tuned(index, held_out, trials, tuple(outcomes), smallest)

    def _rungs(
        self, tried: Sequence[tuple[Trial, AdaptiveIndex, Family]]
    ) -> list[tuple[AdaptiveIndex, Setting]]:
        """Return what is tested, in turn: what loses least of all, then the ladder of the likely fastest."""
        if not tried:
            return []
        safest = min(tried, key=lambda entry: entry[0].likely)
        likely = self.budget.best(trial for trial, *_ in tried)
        chosen, index, family = next((entry for entry in tried if entry[0] is likely), safest)
        steps = [(index, rung) for rung in ladder(family, (chosen.spec.effort, chosen.spec.stages))]
        first = (safest[1], (safest[0].spec.effort, safest[0].spec.stages))
        return [first, *(step for step in steps if step[0] is not first[0] or step[1] != first[1])]

    def _nothing(self, trials: Sequence[Trial], smallest: float | None) -> UserError:
        latency = 1.01 * min(trial.latency for trial in trials)  # rounded up
        if smallest is not None:
            option, what = f"max_loss={smallest:.3g}", f"a loss of at least {smallest:.3g}"
        else:
            option, what = f"max_latency={latency:.3g}", f"a latency of at least {latency:.3g} ms"
        return UserError(
            f"none of {len(trials)} trials keeps {self.budget}",
            expected=what + (f", {self.why()}" if smallest else ""),
            remedy=f"allow more: {option} (of evaluate.py: evaluation.{option})",
        )

    def why(self) -> str:
        """Print how many queries tested, and how many a promise of the budget takes at least."""
        tested, most = len(self.parts[1]), self.budget.max_loss or 0.0
        said = f"as {tested:,} queries show"
        if 0 < most < 1:
            needed = queries_needed(most, 1 - self.budget.confidence, binary=self.binary)
        if 0 < most < 1 and needed > len(self.queries):
            said += f"; {most:g} takes at least {needed:,} queries, of which two thirds test"
        return said

    def explore(self, index: AdaptiveIndex, family: Family, earlier: Sequence[Trial] = ()) -> list[Trial]:
        """Try each plan with the least effort that is likely to keep the budget, found by halving.

        Where even the longest shortlist with most effort loses too much, that is the only trial. Within a
        latency, the effort is raised until it takes too long.
        """
        rows = self.parts[0]
        if self.budget.max_loss is None:
            return list(self._raised(index, family))
        index.configure(*family.most)
        trials = [self.measure(index, rows)]
        if not self.budget.admits(trials[0]):
            return trials
        for stages in family.plans:
            low, high = 0, len(family.efforts) - 1
            while low <= high:
                middle = (low + high) // 2
                index.configure(family.efforts[middle], stages)
                best = self.budget.best([*earlier, *trials])
                trials.append(self.measure(index, rows, best.latency if best else None))
                if self.budget.admits(trials[-1]):
                    high = middle - 1
                elif best and trials[-1].latency >= best.latency:  # more effort takes longer still
                    break
                else:
                    low = middle + 1
        return [*trials, *self._sooner(index, self.budget.best([*earlier, *trials]), trials)]

    def _sooner(self, index: AdaptiveIndex, best: Trial | None, trials: Sequence[Trial]) -> list[Trial]:
        """Try the best trial, where it is one of this index's, with re-ranks that end early."""
        if best is None or len(best.spec.stages) < 2 or not any(best is trial for trial in trials):
            return []
        if split_effort(best.spec.effort).margin < np.inf:
            return []  # whose search needs no patience
        (dim, keep), *later = best.spec.stages
        found = []
        for longer in (keep, 2 * keep):
            stages = ((dim, longer), *later)
            for patience in (later[-1][1] // 2 + 1, later[-1][1], 2 * later[-1][1]):
                if patience < longer - later[-1][1]:
                    index.configure(f"{best.spec.effort},patience={patience}", stages)
                    found.append(self.measure(index, self.parts[0], best.latency))
        return found

    def _raised(self, index: AdaptiveIndex, family: Family) -> Iterator[Trial]:
        for stages in family.plans:
            for effort in family.efforts:
                index.configure(effort, stages)
                trial = self.measure(index, self.parts[0])
                yield trial
                if not self.budget.admits(trial):
                    break

    def measure(self, index: AdaptiveIndex, rows: NDArray[np.int64], best: float | None = None) -> Trial:
        """Search the queries in `rows` in one batch; anew, for its time, unless that is far above `best`."""
        queries = self.queries[rows]
        seconds: list[float] = []
        with threadpool_limits(self.threads):
            while len(seconds) < REPEATS:
                start = self.clock()
                found = index.search_stages(queries)
                seconds.append(self.clock() - start)
                if best is not None and seconds[-1] / len(rows) * 1e3 > FAR * best:
                    break
        quality = self.quality(found, rows)
        exact = Candidates(self.exact.similarities[rows], self.exact.ids[rows])
        losses = self.quality(exact, rows) - quality
        latency = median(seconds) / len(rows) * 1e3
        loss = float(losses.mean())
        likely = loss if index.spec.exact else loss + self._margin(losses)
        return Trial(index.spec, float(quality.mean()), loss, likely, latency, losses)

    def _margin(self, losses: NDArray[np.float64]) -> float:
        """Return how far above the mean of `losses` (Q,) those that test can be expected to bound it."""
        tests, evidence = max(1, len(self.parts[1])), -np.log(1 - self.budget.confidence)
        spread = np.sqrt(2 * evidence / tests) + np.sqrt(1 / len(losses))
        return float(losses.std() * spread + evidence / tests)


def queries_needed(max_loss: float, delta: float, *, binary: bool = False) -> int:
    """Return how many queries show a loss at least: a third chooses, and of the others none loses."""
    tests = least_samples(max_loss, delta, binary=binary)
    return next(count for count in range(tests, 3 * tests + 3) if count - max(1, count // SHARE) >= tests)


def ladder(family: Family, chosen: Setting) -> list[Setting]:
    """Return settings of a family from the one that loses least, by the chosen one, to cheaper ones.

    Each does at most as much as the one before: fewer efforts with the chosen stages.
    """
    effort, stages = chosen
    patience = split_effort(effort).patience
    whole = effort.removesuffix(f",patience={patience}")
    place = list(family.efforts).index(whole)
    above = [*family.efforts[place + 1 :: 2]][-RUNGS // 2 :]
    below = [*family.efforts[max(0, place - 2) : place]]
    sooner = f",patience={patience}" if patience else ""
    steps = [(other, stages) for other in (*reversed(above), whole, effort)]
    steps += [(other + sooner, stages) for other in reversed(below)]
    return list(dict.fromkeys([family.most, *steps]))
