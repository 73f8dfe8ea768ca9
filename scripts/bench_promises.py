"""How often promises of adaptive retrieval are broken: budgets of index=auto, and declared recalls.

    python scripts/bench_promises.py [--samples 300] [--sets 20] [--resamples 20] [--builds 20]

Budgets: 300 samples of 200 to 10,000 queries of 12,000 digits (moved and noisy, principal components of
their pixels) choose an index that may lose 0.001 or 0.01 of mAP@10. Recalls: 20 data sets times 0.90, 0.95
and 0.99 times 20 samples of 800 queries choose an index. A sample is drawn, with replacement, from a pool of
queries, over all of which the true loss is counted; what each index finds is searched once and then looked
up, all else is the code that users run. Builds: AdaptiveIndex.build(x, recall=...) as it is, one for each
data set, asked queries that it never saw.

Beside the shares stand those of the rule that was used before: the fastest of all trials whose normal
interval lies within the budget, on all queries of a sample. A promise with 95 % confidence is broken in at
most 5 %. The last line is a JSON object; `promise_broken_share` is the largest share of a promise.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from mrl_experiments import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.families import declared_families, nested_families, wider_families
from mrl_experiments.adaptive.retrieval.quality import Quality, recall
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.tuning import Budget, Family, Trial, Tuner
from mrl_experiments.metrics.ranking import average_precision
from mrl_experiments.nesting import default_dims

K, POOL, BASE, DIGITS = 10, 1500, 4000, 12_000
SAMPLES, LOSSES = (200, 360, 1000, 3000, 10_000), (0.001, 0.01)
RECALLS, ASKED = (0.9, 0.95, 0.99), 800
ONE_SIDED_95 = 1.645


@dataclass
class Pool:
    """A database and all queries that there are, with what each index was seen to find for them."""

    database: NDArray[np.float32]
    queries: NDArray[np.float32]
    quality: Quality | None = None
    indexes: dict[IndexSpec, AdaptiveIndex] = field(default_factory=dict)
    trials: dict[IndexSpec, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exact = exact_neighbours(self.queries, self.database, K)
        everyone = Tuner(self.queries, self.exact, self.quality or recall(self.exact), Budget(0.5), threads=1)
        self.search = everyone.measure

    def trial(self, index: AdaptiveIndex) -> Trial:
        """Return the trial of an index, as it is configured, on all queries."""
        if index.spec not in self.trials:
            self.trials[index.spec] = self.search(index, np.arange(len(self.queries)), 0.0)
        return self.trials[index.spec]

    def try_all(self, family: Family) -> None:
        """Try each setting of a family, as was done before."""
        index = AdaptiveIndex.build(self.database, None, family.spec)
        for effort, stages in itertools.product(family.efforts, family.plans):
            index.configure(effort, stages)
            self.trial(index)


@dataclass(frozen=True)
class Replayed(Tuner):
    """A tuner of a sample (S,) of a pool's queries that looks up what was searched before."""

    pool: Any = None
    sample: Any = None

    def build(self, database: NDArray[np.float32], family: Family) -> AdaptiveIndex:
        """Return the index of a family, built once for each pool."""
        key = replace(family.spec, stages=family.most[1], effort="")
        if key not in self.pool.indexes:
            self.pool.indexes[key] = AdaptiveIndex.build(database, None, family.spec)
        return self.pool.indexes[key]

    def measure(self, index: AdaptiveIndex, rows: NDArray[np.int64], best: float | None = None) -> Trial:
        """Return the trial on some of the sample."""
        trial = self.pool.trial(index)
        losses = trial.losses[self.sample[rows]]
        loss = float(losses.mean())
        likely = loss if trial.exact else loss + self._margin(losses)
        return replace(trial, losses=losses, loss=loss, likely=likely, quality=1 - loss)


def chosen(
    pool: Pool, sample: NDArray[np.int64], budget: Budget, families: Sequence[Sequence[Family]]
) -> tuple[bool, bool, bool]:
    """Return whether the promise of a sample is broken, is used, and that of the rule before is broken."""
    exact = Candidates(pool.exact.similarities[sample], pool.exact.ids[sample])
    tuner = Replayed(pool.queries[sample], exact, recall(exact), budget, threads=1, pool=pool, sample=sample)
    tuned = tuner.choose(pool.database, *families)
    limit = budget.max_loss or 0.0
    truth = pool.trial(tuned.index).loss
    bounds = {
        spec: trial.losses[sample].mean() + ONE_SIDED_95 * trial.losses[sample].std() / len(sample) ** 0.5
        for spec, trial in pool.trials.items()
    }
    within = [pool.trials[spec] for spec, bound in bounds.items() if bound <= limit]
    before = min(within, key=lambda trial: trial.latency, default=None)
    return truth > limit, not tuned.index.spec.exact, before is not None and before.loss > limit


def budgets(samples: int) -> Iterator[dict[str, Any]]:
    """Yield the shares of broken budgets of mAP@10 on digits."""
    vectors, labels = moved_digits(np.random.default_rng(0), DIGITS + 2 * POOL)

    def precision(found: Candidates, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        relevant = (found.ids >= 0) & (labels[:DIGITS][found.ids] == labels[DIGITS:][rows, None])
        return average_precision(relevant, K)

    pool = Pool(vectors[:DIGITS], vectors[DIGITS:], precision)
    dims = default_dims(vectors.shape[1])
    families = nested_families(DIGITS, dims, K), wider_families(DIGITS, dims, K)
    pool.try_all(families[0][0])
    for limit in LOSSES:
        for count in SAMPLES:
            draws = np.random.default_rng(count).integers(2 * POOL, size=(samples, count))
            outcomes = [chosen(pool, draw, Budget(max_loss=limit), families) for draw in draws]
            yield {"max_loss": limit, "queries": count} | _shares(outcomes)


def recalls(sets: int, resamples: int) -> Iterator[dict[str, Any]]:
    """Yield the shares of broken recalls, over all data sets."""
    outcomes: dict[float, list[tuple[bool, bool, bool]]] = {share: [] for share in RECALLS}
    for number in range(sets):
        start = time.process_time()
        draw = data_set(number)
        database, queries = draw(BASE), draw(POOL)
        pool, dims = Pool(database, queries), default_dims(database.shape[1])
        families = declared_families(len(database), dims, K)
        for share in RECALLS:
            draws = np.random.default_rng(number).integers(POOL, size=(resamples, ASKED))
            outcomes[share] += [chosen(pool, rows, Budget(1 - share), families) for rows in draws]
        print(f"set {number}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    for share, found in outcomes.items():
        yield {"recall": share, "sets": sets, "queries": ASKED} | _shares(found)


def builds(sets: int) -> Iterator[dict[str, Any]]:
    """Yield the share of broken recalls of whole builds, whose queries are drawn from the vectors."""
    broken = []
    for number in range(sets):
        draw, share = data_set(number), RECALLS[number % len(RECALLS)]
        database, queries = draw(2 * BASE), draw(2 * POOL)
        index = AdaptiveIndex.build(database, recall=share, k=K, threads=1, seed=number)
        found = index.search(queries)
        truth = recall(exact_neighbours(queries, database, K))(found, np.arange(len(queries)))
        broken.append(float(truth.mean()) < share)
        print(f"build {number}: {share:g} {truth.mean():.4f} {index.spec.codes}", file=sys.stderr, flush=True)
    yield {"builds": sets, "broken": float(np.mean(broken)) if broken else 0.0}


def data_set(number: int) -> Callable[[int], NDArray[np.float32]]:
    """Return what draws vectors: moved digits, for one set in five, or a mixture of its own kind."""
    random = np.random.default_rng([7, number])
    if number % 5 == 4:
        return lambda count: moved_digits(random, count)[0]
    width, centres = int(random.choice([32, 48, 64, 96])), int(random.choice([1, 20, 200, 1000]))
    decay = np.arange(1, width + 1) ** -random.choice([0.0, 0.3, 0.6, 1.0])
    middles, spread = random.normal(size=(centres, width)), random.choice([0.3, 0.7, 1.0])

    def mixed(count: int) -> NDArray[np.float32]:
        noise = random.standard_t(4, (count, width)) if number % 2 else random.normal(size=(count, width))
        return ((middles[random.integers(centres, size=count)] + spread * noise) * decay).astype(np.float32)

    return mixed


def moved_digits(random: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return principal components (count, 64) of digits, moved by a pixel and noisy, and labels."""
    digits = load_digits()
    rows, steps = random.integers(len(digits.images), size=count), random.integers(-1, 2, count)
    moved = [np.roll(digits.images[row], step, 1) for row, step in zip(rows, steps, strict=True)]
    pixels = np.reshape(moved, (-1, 64)) + random.normal(0, 2, (count, 64))
    axes = PCA(random_state=0).fit(digits.data)
    return axes.transform(pixels).astype(np.float32), digits.target[rows]


def _shares(outcomes: Sequence[tuple[bool, bool, bool]]) -> dict[str, float]:
    broken, used, before = np.mean(outcomes, axis=0)
    return {"broken": float(broken), "faster_than_exact": float(used), "broken_before": float(before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, count in (("samples", 300), ("sets", 20), ("resamples", 20), ("builds", 20)):
        parser.add_argument(f"--{name}", type=int, default=count)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rows = []
    for row in itertools.chain(
        budgets(asked.samples), recalls(asked.sets, asked.resamples), builds(asked.builds)
    ):
        rows.append(row)
        print("  ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)
    largest = max(row["broken"] for row in rows if "builds" not in row)
    before = max(row["broken_before"] for row in rows if "broken_before" in row)
    last = {"promise_broken_share": largest, "broken_before": before, "broken_builds": rows[-1]["broken"]}
    print(json.dumps({name: round(value, 4) for name, value in last.items()}))


if __name__ == "__main__":
    main()
