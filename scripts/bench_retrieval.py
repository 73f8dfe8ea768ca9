"""How much faster than exact search nested prefixes retrieve, at 0.1 points of mAP@10 lost.

    python scripts/bench_retrieval.py [database=FOLDER query=FOLDER]

The folders hold embeddings; by default those of the newest run with kanji4k. Every index is tuned on one half
of the queries to lose at most 0.1 points and measured on the other half, in batches of 2,000 with one thread,
in turn with FAISS's exact search of all features. Indexes of all features are tuned alike, as opponents.
Builds use all threads. Prints a table and, as its last line, a JSON object.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from mrl_experiments import embeddings
from mrl_experiments.adaptive.retrieval.families import full_width_families, nested_families
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.tuning import Budget, Family, Tuner, recall
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import average_precision
from mrl_experiments.nesting import default_dims

K, MAX_LOST, BATCH, SINGLES, ROUNDS, TUNING = 10, 0.001, 2000, 50, 5, 2000
SMALLEST_DATABASE = 350_000
SMALLEST_SCAN = 32  # a shortlist at 16 features loses more than 0.1 points even when its scan is exact


@dataclass
class Contestant:
    """An index with what it gave: times in ms per query, one entry a round; mean_ap and recall fractions.

    recall: the share of the exact ten nearest that it finds. Where lists gather classes, an index that looks
    into few of them may miss many of those and yet answer with more of the right class than exact search.

    tuned_latency: ms per query on the tuning half, by which a winner is chosen.
    """

    index: AdaptiveIndex
    build_seconds: float
    tuned_latency: float
    mean_ap: float = 0.0
    recall: float = 0.0
    batch: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The codes, effort and stages."""
        spec = self.index.spec
        stages = " > ".join(f"{dim}:{keep}" for dim, keep in spec.stages)
        return f"{spec.codes} {spec.effort}  {stages}"


def load(arguments: Sequence[str]) -> tuple[Embeddings, Embeddings]:
    """Return the database and the queries that the command line names."""
    if unknown := [part for part in arguments if part.partition("=")[0] not in ("database", "query")]:
        raise UserError(unknown[0], expected="database=<folder> and query=<folder>, or nothing")
    named = dict(argument.split("=", 1) for argument in arguments)
    found = sorted(
        Path("outputs/runs").glob("*/embeddings/kanji4k/database"), key=lambda p: p.stat().st_mtime
    )
    if "database" not in named and not found:
        raise UserError("no run has kanji4k embeddings", remedy="python embed.py run=... data=kanji4k")
    folder = Path(named["database"]) if "database" in named else found[-1]
    database = embeddings.load(folder)
    if len(database) < SMALLEST_DATABASE:
        raise UserError(f"{len(database)} database vectors", expected=f"at least {SMALLEST_DATABASE}")
    return database, embeddings.load(Path(named.get("query", str(folder.parent / "query"))))


def build(database: Embeddings, spec: IndexSpec) -> tuple[AdaptiveIndex, float]:
    """Return an index and the seconds that building it took, with all threads."""
    start = perf_counter()
    index = AdaptiveIndex.build(database.features, None, spec)
    return index, perf_counter() - start


def measure(contestants: Sequence[Contestant], queries: NDArray[np.float32]) -> None:
    """Time all contestants in turn, a batch and single queries each, several times."""
    for _ in range(ROUNDS):
        for contestant in contestants:
            start = perf_counter()
            contestant.index.search_stages(queries)
            contestant.batch.append((perf_counter() - start) / len(queries) * 1e3)
            singles = []
            for row in range(SINGLES):
                start = perf_counter()
                contestant.index.search_stages(queries[row : row + 1])
                singles.append((perf_counter() - start) * 1e3)
            contestant.single.append(median(singles))


def tuned(tuner: Tuner, database: Embeddings, families: Sequence[Family]) -> list[Contestant]:
    """Return each family at its fastest within the budget, leaving out those that never keep it."""
    contestants = []
    for family in families:
        index, seconds = build(database, family.spec)
        best = tuner.budget.best(tuner.explore(index, family))
        outcome = "tuned" if best else "loses too much"
        print(f"{family.spec.codes} on {family.spec.dims[0]}: {outcome}", file=sys.stderr, flush=True)
        if best is not None:
            index.configure(best.spec.effort, best.spec.stages)
            contestants.append(Contestant(index, seconds, best.latency))
    return contestants


def table(contestants: Sequence[Contestant], exact: Contestant) -> Table:
    """Return a row for each contestant, with ratios to exact search in the same rounds."""
    drawn = Table(
        "search", "batch ms", "x", "single ms", "x", "mAP@10 %", "lost", "recall@10 %", "MiB", "build s"
    )
    for one in contestants:
        drawn.add_row(
            one.name,
            f"{median(one.batch):.4f}",
            f"{speedup(exact.batch, one.batch):.1f}",
            f"{median(one.single):.3f}",
            f"{speedup(exact.single, one.single):.1f}",
            f"{100 * one.mean_ap:.2f}",
            f"{100 * (exact.mean_ap - one.mean_ap):.3f}",
            f"{100 * one.recall:.1f}",
            f"{one.index.shortlist_bytes / 2**20:.0f}",
            f"{one.build_seconds:.0f}",
        )
    return drawn


def speedup(exact: Sequence[float], other: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return median(slow / fast for slow, fast in zip(exact, other, strict=True))


def main(arguments: Sequence[str]) -> None:
    console = Console(width=150)
    database, queries = load(arguments)
    rows = np.unique(np.linspace(0, len(queries) - 1, TUNING + BATCH).astype(np.int64))
    vectors, labels = np.array(queries.features[rows]), queries.labels[rows]
    width, count = database.width, len(database)

    def quality(found: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
        relevant = (found >= 0) & (database.labels[found] == labels[of, None])
        return average_precision(relevant, K)

    index, seconds = build(database, IndexSpec((width,), "Flat", ((width, K),)))
    exact = Contestant(index, seconds, np.inf)
    tuner = Tuner(vectors, index.search_stages(vectors).ids, quality, Budget(max_loss=MAX_LOST), threads=1)
    ours = tuned(tuner, database, nested_families(count, default_dims(width, SMALLEST_SCAN), K))
    rivals = tuned(tuner, database, full_width_families(count, width, K))

    contestants = [exact, *rivals, *ours]
    others = np.arange(1, len(vectors), 2)
    with threadpool_limits(1):
        measure(contestants, vectors[others])
    nearest = recall(tuner.exact)
    for one in contestants:
        found = one.index.search_stages(vectors[others]).ids
        one.mean_ap = float(quality(found, others).mean())
        one.recall = float(nearest(found, others).mean())
    console.print(
        f"{count:,} vectors, D={width}, {len(others)} queries, one thread; x: times faster than the first"
    )
    console.print(table(contestants, exact))
    fastest, rival = (min([exact, *some], key=lambda one: one.tuned_latency) for some in (ours, rivals))
    figures = {
        "speedup": speedup(exact.batch, fastest.batch),
        "map_lost": 100 * (exact.mean_ap - fastest.mean_ap),
        "single_query_speedup": speedup(exact.single, fastest.single),
        "best_full_dim_speedup": speedup(exact.batch, rival.batch),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
