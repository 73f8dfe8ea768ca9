"""What an index on disk costs: building, memory, recall, time and reads of a query, warm and cold.

    python scripts/bench_large.py rows=1000000                 from the newest run's kanji1k embeddings
    python scripts/bench_large.py rows=300000 base=FOLDER|base.npy query=FOLDER|queries.npy
    ... folder=DIR recall=0.95 queries=1000 seed=0 dim=128 dtype=float16 opponent=yes keep=no
    ... clock=cpu declared=yes
    python scripts/bench_large.py exact=yes rows=50000         exact search instead: FAISS's Panorama and Flat

The vectors are made from 20,000 real ones, the same by the same seed: each lies between one and one of its
ten nearest among these, at a uniform share of the way, with normal noise of 0.3 of the deviation that such
differences have in each feature; of norm 1, so that L2 ranks as the cosine does. Queries are real vectors
that took no part. Recall is that of the true ten nearest by all features in float32. `opponent` is FAISS's
lists of whole vectors in 16 bits, on disk (OnDiskInvertedLists), with the least lists that reach the recall
on half of the queries; beside it stands ours with the effort and shortlist that take the least time for
that, and with what a declared recall chose, which is higher, since it is certified. Only the latter is
measured cold.

Each index is searched in a process of its own, on one thread: first cold, after the system has let go of the
files' pages, then warm, in rounds that change between both. Anonymous memory is the kernel's RssAnon; reads
are blocks of 4,096 bytes that came from the disk. clock=cpu counts the seconds of the processor when warm,
which other work on the machine does not lengthen. Prints a table and, as its last line, a JSON object.
"""

import functools
import gc
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mrl_experiments import embeddings
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import BOUNDED
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.loops import loops_shown

K, NEAR, NOISE, BLOCK, ROUNDS, BASE = 10, 10, 0.3, 16384, 5, 20_000
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256)
OURS, TUNED = "nested codes, vectors on disk", "the same, tuned like FAISS"
SHORTLISTS = (30, 50, 100, 200, 400, 800, 1600)
DEFAULTS = {
    "rows": "100000",
    "base": "",
    "query": "",
    "folder": "outputs/bench_large",
    "recall": "0.95",
    "queries": "1000",
    "seed": "0",
    "dim": "128",
    "dtype": "float16",
    "opponent": "yes",
    "keep": "no",
    "clock": "wall",
    "declared": "yes",
    "exact": "no",
}
Vectors = NDArray[np.float32]
Found = NDArray[np.int64]
Search = Callable[[Vectors], Found]
Clock = Callable[[], float]
Setting = (
    tuple[str, Any] | int | None
)  # ours: effort and stages, None for those declared; FAISS: lists to probe
Entries = dict[str, tuple[Path, Setting]]


class Made:
    """Any number of vectors like some real ones (n, D), by blocks, always the same."""

    def __init__(self, real: Vectors, count: int, seed: int) -> None:
        self.real, self.count, self.seed = real, count, seed
        self.near = exact_neighbours(real, real, NEAR + 1).ids[:, 1:]
        pairs = np.random.default_rng(seed).integers(len(real), size=10_000)
        self.spread = NOISE * (real[self.near[pairs, 0]] - real[pairs]).std(axis=0)

    def __iter__(self) -> Iterator[Vectors]:
        for start in range(0, self.count, BLOCK):
            random = np.random.default_rng([self.seed, start])
            count = min(BLOCK, self.count - start)
            rows, place = random.integers(len(self.real), size=count), random.integers(NEAR, size=count)
            share = random.random((count, 1), np.float32)
            ends = self.real[self.near[rows, place]]
            made = self.real[rows] * (1 - share) + ends * share
            made += random.standard_normal(made.shape, np.float32) * self.spread
            yield unit_prefixes(made, made.shape[1])


def anonymous() -> int:
    """Return the bytes of this process that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def peak(call: Callable[[], Any]) -> tuple[Any, int, float]:
    """Return what a call returns, the anonymous memory that it adds at most, and its seconds."""
    ended, most, before, start = Event(), [0], anonymous(), time.perf_counter()

    def watch() -> None:
        while not ended.wait(0.05):
            most[0] = max(most[0], anonymous())

    thread = Thread(target=watch)
    thread.start()
    try:
        return call(), max(most[0], anonymous()) - before, time.perf_counter() - start
    finally:
        ended.set()
        thread.join()


def read_bytes() -> int:
    """Return how many bytes this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def let_go(folder: Path) -> None:
    """Have the system drop what it holds of the files in a folder, as far as no process uses it."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def singly(
    search: Search, queries: Vectors, clock: Clock = time.perf_counter
) -> tuple[float, NDArray[np.int64]]:
    """Return ms per query, one at a time, and what was found."""
    start = clock()
    found = [search(queries[row : row + 1]) for row in range(len(queries))]
    return (clock() - start) / len(queries) * 1e3, np.concatenate(found)


def searched(folder: Path, queries: Vectors, pipe: Any, setting: Setting, by: str) -> None:
    """Search an index, ours or FAISS's, in this process; send its figures, round by round."""
    faiss.omp_set_num_threads(1)
    clock, start = time.process_time if by == "cpu" else time.perf_counter, anonymous()
    if not isinstance(setting, int):
        index: Any = AdaptiveIndex.on_disk(folder)
        if setting is not None:
            index.configure(*setting)

        def search(asked: Vectors) -> NDArray[np.int64]:
            return index.search_stages(asked).ids
    else:
        index = faiss.read_index(str(folder / "index.faiss"))
        index.nprobe = setting

        def search(asked: Vectors) -> NDArray[np.int64]:
            return found_by(index, asked)

    with threadpool_limits(1):
        singly(search, queries[:5])  # compiles
        let_go(folder)
        before = read_bytes()
        cold, found = singly(search, queries)
        reads = (read_bytes() - before) / 4096 / len(queries)
        singly(search, queries)
        pipe.send({"cold_ms": cold, "reads": reads, "found": found})
        while pipe.recv():
            started = clock()
            search(queries)
            batch = (clock() - started) / len(queries) * 1e3
            warm, _ = singly(search, queries, clock)
            pipe.send({"ms": warm, "batch_ms": batch, "anonymous": anonymous() - start})


def compared(entries: Entries, queries: Vectors, by: str) -> dict[str, dict[str, Any]]:
    """Return the figures of each index; warm rounds change between them."""
    context = multiprocessing.get_context("spawn")
    pipes, found = {}, {}
    for name, (folder, setting) in entries.items():
        ours, theirs = context.Pipe()
        context.Process(target=searched, args=(folder, queries, theirs, setting, by), daemon=True).start()
        pipes[name], found[name] = ours, ours.recv()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in entries}
    for _ in range(ROUNDS):
        for name, pipe in pipes.items():
            pipe.send(True)
            rounds[name].append(pipe.recv())
    for name, pipe in pipes.items():
        pipe.send(False)
        found[name]["rounds"] = rounds[name]
        found[name] |= {key: median(one[key] for one in rounds[name]) for key in rounds[name][0]}
    return found


def build_opponent(made: Made, folder: Path) -> Any:
    """Build FAISS's lists of whole vectors in 16 bits, on disk."""
    folder.mkdir(parents=True)
    width, lists = made.real.shape[1], 2 ** int(np.log2(max(16, 4 * made.count**0.5)))
    index: Any = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 64, 1
    blocks = iter(made)
    index.train(
        np.concatenate([block for block, _ in zip(blocks, range(1 + 64 * lists // BLOCK), strict=False)])
    )
    on_disk: Any = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(folder / "lists"))
    filled: Any = faiss.clone_index(index)
    for block in made:
        filled.add(block)
    kinds: Any = faiss  # whose stubs lack this
    parts = kinds.InvertedListsPtrVector()
    parts.push_back(filled.invlists)
    on_disk.merge_from_multiple(parts.data(), 1)
    index.ntotal = filled.ntotal
    index.replace_invlists(on_disk, True)
    on_disk.this.disown()
    faiss.write_index(index, str(folder / "index.faiss"))
    return index


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return the share of the true neighbours (Q, k) that is found."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(found, exact, strict=True)]))


def true_neighbours(made: Made, queries: Vectors) -> NDArray[np.int64]:
    """Return the nearest of all vectors, which are made once more for it."""
    best = (np.full((len(queries), K), -np.inf, np.float32), np.full((len(queries), K), -1))
    for number, block in enumerate(made):
        near, rows = faiss.knn(queries, block, K, metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([best[0], near], axis=1)
        ids = np.concatenate([best[1], rows + number * BLOCK], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        best = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return best[1]


def least_probes(index: Any, queries: Vectors, exact: NDArray[np.int64], target: float) -> int | None:
    """Return how many lists reach a recall, None if no number that is tried does."""
    for probes in PROBES:
        index.nprobe = probes
        if recall(index.search(queries, K)[1], exact) >= target:
            return probes
    return None


def least_work(index: Any, queries: Vectors, exact: Found, target: float) -> Setting:
    """Return the effort and stages that reach a recall in the least time, None if none does."""
    width, best = index.width, None
    for keep in SHORTLISTS:
        for probes in PROBES:
            setting = f"nprobe={probes}", ((index.spec.dims[0], keep), (width, K))
            index.configure(*setting)
            start = time.process_time()
            found = index.search_stages(queries).ids
            taken = time.process_time() - start
            if best and taken > best[0]:
                break
            if recall(found, exact) >= target:
                best = taken, setting
                break
    return best and best[1]


def real_vectors(named: dict[str, str]) -> tuple[Vectors, Vectors]:
    """Return real vectors of norm 1, and others for queries, evenly spaced."""

    def read(path: str) -> Vectors:
        found = np.load(path) if path.endswith(".npy") else embeddings.load(Path(path)).features
        return unit_prefixes(np.asarray(found, np.float32), found.shape[1])

    base = named["base"]
    if not base:
        there = sorted(
            Path("outputs/runs").glob("*/embeddings/kanji1k/train"), key=lambda path: path.stat().st_mtime
        )
        if not there:
            raise UserError("no run has kanji1k embeddings", remedy="python embed.py run=..., or base=<file>")
        base = str(there[-1])
    real = read(base)
    other = named["query"] or ("" if base.endswith(".npy") else str(Path(base).parent / "val"))
    asked = read(other) if other else real
    rows = np.unique(np.linspace(0, len(asked) - 1, int(named["queries"])).astype(np.int64))
    queries = asked[rows]
    if not other:
        real = np.delete(real, rows, axis=0)
    chosen = np.sort(np.random.default_rng(int(named["seed"])).permutation(len(real))[:BASE])
    return real[chosen], queries


def main() -> None:
    """Measure what the command line asks for."""
    named = {**DEFAULTS, **dict(option.partition("=")[::2] for option in sys.argv[1:])}
    if unknown := [name for name in named if name not in DEFAULTS]:
        raise UserError(f"{unknown[0]}: no such option", expected=f"one of {', '.join(DEFAULTS)}")
    target, folder = float(named["recall"]), Path(named["folder"])
    real, queries = real_vectors(named)
    made = Made(real, int(named["rows"]), int(named["seed"]))
    if named["exact"] == "yes":
        exact_search(made, queries)
        return
    exact = true_neighbours(made, queries)
    tune, test = np.arange(0, len(queries), 2), np.arange(1, len(queries), 2)
    options: dict[str, Any] = {"k": K}
    if named["declared"] == "yes":
        options |= {"recall": target, "queries": queries[tune]}
    options |= {"dim": int(named["dim"]), "dtype": named["dtype"], "similarity": "l2", "count": made.count}
    try:
        with loops_shown():
            index, memory, seconds = peak(lambda: AdaptiveIndex.on_disk(folder / "ours", made, **options))
        entries: Entries = {OURS: (folder / "ours", None)} if named["declared"] == "yes" else {}
        if named["opponent"] == "yes":
            rival = build_opponent(made, folder / "opponent")
            probes = least_probes(rival, queries[tune], exact[tune], target)
            del rival
            if probes:
                entries["FAISS lists on disk"] = (folder / "opponent", probes)
        spec = index.spec
        if chosen := least_work(index, queries[tune], exact[tune], target):
            entries[TUNED] = (folder / "ours", chosen)
        size = sum(path.stat().st_size for path in (folder / "ours").iterdir())
        del index
        gc.collect()  # maps that are open keep the system from letting go of the files
        runs = compared(entries, queries[test], named["clock"])
    finally:
        if named["keep"] != "yes":
            shutil.rmtree(folder, ignore_errors=True)
    report(
        runs, exact[test], named, {"build_seconds": seconds, "build_anonymous": memory, "disk": size}, spec
    )


def found_by(index: Any, queries: Vectors) -> Found:
    """Return what an index of FAISS finds."""
    return np.asarray(index.search(queries, K)[1])


def exact_search(made: Made, queries: Vectors) -> None:
    """Print how many times faster Panorama is than Flat, on the vectors as they are and rotated at random."""
    vectors, figures = np.concatenate(list(made)), {"rows": float(made.count)}
    square = np.random.default_rng(made.seed).normal(size=(vectors.shape[1],) * 2)
    turns = {"nested": np.eye(len(square)), "rotated": np.linalg.qr(square)[0]}
    faiss.omp_set_num_threads(1)
    for name, turn in turns.items():
        stored, asked = (part @ turn.astype(np.float32) for part in (vectors, queries))
        indexes = [faiss.index_factory(stored.shape[1], kind, faiss.METRIC_L2) for kind in ("Flat", BOUNDED)]
        times: dict[str, list[list[float]]] = {"singly": [[], []], "batch": [[], []]}
        for index in indexes:
            index.add(stored)
        for _, (number, index) in itertools.product(range(ROUNDS), enumerate(indexes)):
            search = functools.partial(found_by, index)
            times["singly"][number].append(singly(search, asked[:40], time.process_time)[0])
            start = time.process_time()
            search(asked)
            times["batch"][number].append(time.process_time() - start)
        for asking, (flat, bounded) in times.items():
            ratios = [one / other for one, other in zip(flat, bounded, strict=True)]
            figures[f"{name}_{asking}"] = median(ratios)
    print(json.dumps(figures))


def report(
    runs: dict[str, dict[str, Any]],
    exact: NDArray[np.int64],
    named: dict[str, str],
    built: dict[str, float],
    spec: Any,
) -> None:
    """Print a table, and the figures of ours and its ratios to the opponent as JSON."""
    print(f"{int(named['rows']):,} vectors; {spec.codes}, {spec.effort}, stages {spec.stages}")
    for name, run in runs.items():
        # The other process of ours keeps pages in use, so that what is tuned is never cold.
        cold = f"{run['cold_ms']:.2f} cold with {run['reads']:.0f} reads, "
        if name == TUNED and OURS in runs:
            cold = ""
        print(
            f"{name}: recall@{K} {recall(run['found'], exact):.4f}, {run['ms']:.3f} ms a query warm, "
            f"{run['batch_ms']:.3f} in batches, {cold}{run['anonymous'] / 2**20:.0f} MiB anonymous"
        )
    ours, tuned = (runs.get(name) or next(iter(runs.values())) for name in (OURS, TUNED))
    others = [run for name, run in runs.items() if name not in (OURS, TUNED)]
    figures: dict[str, Any] = {"rows": int(named["rows"]), "recall": recall(ours["found"], exact)}
    figures |= {key: ours[key] for key in ("ms", "batch_ms", "cold_ms", "reads", "anonymous")} | built
    for other in others:
        pairs = zip(other["rounds"], tuned["rounds"], strict=True)
        figures |= {"recall_tuned": recall(tuned["found"], exact), "ms_tuned": tuned["ms"]}
        figures["recall_opponent"] = recall(other["found"], exact)
        figures["over_opponent"] = median(one["ms"] / two["ms"] for one, two in pairs)
        figures["over_opponent_cold"] = other["cold_ms"] / ours["cold_ms"]
    print(json.dumps(figures))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
