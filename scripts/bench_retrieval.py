"""How much faster nested prefixes retrieve than the best other indexes, each tuned in the same run.

    python scripts/bench_retrieval.py                               the newest run with kanji4k embeddings
    python scripts/bench_retrieval.py database=FOLDER query=FOLDER  embeddings of a run
    python scripts/bench_retrieval.py database=base.npy [query=queries.npy]   vectors of any model
    python scripts/bench_retrieval.py texts=FILE[,FILE...] count=1000000      lines, by a static encoder,
    trained nested ... minutes=30 target=0.95 rows=points.csv clock=cpu

All search the same full vectors by their cosines on one thread. Each form is swept over its shortlist and
its effort on half of the queries, for the fastest setting with recall@10 of the true neighbours of at least
`target`, in batches and one query at a time; these are then measured in turn on the other half, several
times. `rows` keeps all points of the sweeps: recall, mAP, ms in batches and singly. Forms are tried in the
order that promises most, and once `minutes` are over no other is begun. Where vectors have labels, `speedup`
is that over exact search at 0.1 points of mAP lost, as before; else at the target. clock=cpu counts the
seconds of the processor, which other work on the machine does not lengthen. ScaNN and usearch take part
where they are installed. Builds use all threads.

Prints a table and, as its last line, a JSON object. `over_best_opponent`: the time of the best opponent over
that of the best nested index; `promise_broken_share`: see bench_promises.py, here of few samples.
"""

import csv
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import faiss
import numpy as np
from bench_promises import budgets
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from mrl_experiments import embeddings
from mrl_experiments.adaptive.retrieval.families import PROBES, lists, nested_families
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.shortlist import core_of
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import average_precision
from mrl_experiments.nesting import default_dims

K, SINGLES, ROUNDS, QUERIES, MAX_LOST, MARGIN = 10, 200, 5, 2000, 0.001, 0.002
SHORTLISTS = (2, 3, 5, 10, 20, 40)  # times K
FAR = 1.2  # times the best latency, from which on a shortlist is given up
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
OPTIONS = ("database", "query", "texts", "count", "minutes", "target", "rows", "clock", "samples")
Found = NDArray[np.int64]
Setting = tuple[Any, Any]


class Data(NamedTuple):
    """Unit vectors (N, D), queries (Q, D), and the labels of both, or None."""

    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    labels: tuple[NDArray[np.int64], NDArray[np.int64]] | None


class Point(NamedTuple):
    """What a setting gave on the queries that tune: fractions, and ms per query."""

    recall: float
    mean_ap: float
    batch: float
    single: float


@dataclass
class Form:
    """One kind of index and how it is swept.

    Attributes:
        build: Returns what answers `search(queries)` after `configure(outer, inner)`, and its bytes.
        outer: Settings to try each with the least that suffices of `inner`, which loses less as it grows.
    """

    name: str
    build: Callable[[NDArray[np.float32]], tuple[Callable[..., None], Callable[..., Found], int]]
    outer: Sequence[Any] = (None,)
    inner: Sequence[Any] = (None,)
    ours: bool = False
    seconds: float = 0.0
    size: int = 0
    points: dict[Setting, Point] = field(default_factory=dict)
    times: dict[tuple[Setting, bool], list[float]] = field(default_factory=dict)

    def best(self, admits: Callable[[Point], bool], single: bool) -> Setting | None:
        """Return the fastest setting that is admitted."""
        kept = [setting for setting, point in self.points.items() if admits(point)]
        return min(kept, key=lambda one: self.points[one][3 if single else 2], default=None)


def nested_form(count: int, spec: IndexSpec, plans: Sequence[Any]) -> Form:
    """Return an AdaptiveIndex of nested prefixes; an outer setting is its stages and patience."""

    def build(units: NDArray[np.float32]) -> tuple[Callable[..., None], Callable[..., Found], int]:
        index = AdaptiveIndex.build(units, None, spec)

        def configure(outer: Any, inner: int) -> None:
            stages, patience = outer
            index.configure(f"nprobe={inner}" + (f",patience={patience}" if patience else ""), stages)

        return configure, lambda queries: index.search_stages(queries).ids, index.shortlist_bytes

    outer = [(plan, patience) for plan in plans for patience in (0, K)]
    return Form(f"nested {spec.dims[0]}: {spec.codes}", build, outer, PROBES, ours=True)


def faiss_form(codes: str, inner: Sequence[int] = (), effort: str = "nprobe", metric: int = 0) -> Form:
    """Return an index of FAISS's factory, which re-ranks by itself where its codes end in RFlat."""
    refined = codes.endswith("RFlat")

    def build(units: NDArray[np.float32]) -> tuple[Callable[..., None], Callable[..., Found], int]:
        index: Any = faiss.index_factory(units.shape[1], codes, metric)
        index.train(units)
        index.add(units)
        space = faiss.ParameterSpace()
        base: Any = faiss.downcast_index(index.base_index) if refined else index
        core = core_of(base)
        if isinstance(core, faiss.IndexIVFFastScan):
            core.implem = 11  # as AdaptiveIndex does: a tenth faster

        def configure(outer: Any, inner: Any) -> None:
            if inner is not None:
                space.set_index_parameter(core, effort, inner)
            if refined:
                index.k_factor = outer

        return configure, lambda queries: index.search(queries, K)[1], faiss.serialize_index(index).nbytes

    return Form(codes, build, SHORTLISTS if refined else (None,), inner or (None,))


def usearch_form() -> Form:
    """Return usearch's graph."""

    def build(units: NDArray[np.float32]) -> tuple[Callable[..., None], Callable[..., Found], int]:
        from usearch.index import Index

        index: Any = Index(ndim=units.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=64)
        index.add(np.arange(len(units)), units)

        def configure(_: Any, inner: int) -> None:
            index.expansion_search = inner

        def search(queries: NDArray[np.float32]) -> Found:
            return np.asarray(index.search(queries, K, threads=1).keys, np.int64).reshape(len(queries), K)

        return configure, search, index.memory_usage

    return Form("usearch HNSW32", build, (None,), EFFORTS)


def scann_form(count: int) -> Form:
    """Return ScaNN's lists with anisotropic codes of two features, re-ranked by the vectors."""
    leaves = max(1, lists(count) // 2)

    def build(units: NDArray[np.float32]) -> tuple[Callable[..., None], Callable[..., Found], int]:
        import scann

        builder = scann.scann_ops_pybind.builder(units, K, "dot_product")
        builder = builder.tree(leaves, 1, training_sample_size=min(count, 250_000))
        index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(K).build()
        chosen: dict[str, int] = {}

        def configure(outer: int, inner: int) -> None:
            chosen.update(leaves_to_search=inner, pre_reorder_num_neighbors=outer * K)

        def search(queries: NDArray[np.float32]) -> Found:
            if len(queries) == 1:
                return np.asarray(index.search(queries[0], **chosen)[0], np.int64)[None]
            return np.asarray(index.search_batched(queries, **chosen)[0], np.int64)

        return configure, search, units.nbytes + units.nbytes // 16

    return Form(f"ScaNN tree{leaves}, AH2", build, SHORTLISTS, PROBES)


def forms(count: int, width: int) -> list[Form]:
    """Return what is tried, in the order in which it promises most."""
    ivf, flat = f"IVF{lists(count)}", f"IVF{max(1, lists(count) // 2)},Flat"
    dims = [dim for dim in default_dims(width, 16) if dim < width]
    found = [faiss_form("Flat")]
    nested = []
    for dim in dims:
        family = nested_families(
            count, (dim, *(other for other in default_dims(width) if other >= 2 * dim)), K
        )[0]
        spec = IndexSpec((dim,), f"{ivf},PQ{dim}x4fsr", family.plans[0])
        nested.append(nested_form(count, spec, family.plans))
    wide = [dim for dim in (64, 32, 128) if dim < width]
    nested.sort(key=lambda form: not any(f"nested {dim}:" in form.name for dim in wide))
    found += nested[:3]
    found += [faiss_form(f"PCA{dim},{ivf},PQ{dim}x4fsr,RFlat", PROBES) for dim in wide]
    found += [faiss_form(f"{ivf},FlatPanorama8", PROBES, metric=faiss.METRIC_L2)]
    found += [faiss_form(f"RR{width},{ivf},RaBitQfs,RFlat", PROBES), faiss_form(flat, PROBES)]
    found += [scann_form(count)] if find_spec("scann") else []
    found += [faiss_form("HNSW32_SQ8", EFFORTS, "efSearch")]
    found += [faiss_form(f"{ivf},PQ{size}x4fsr,RFlat", PROBES) for size in (width // 4, width // 2)]
    found += [usearch_form()] if find_spec("usearch") else []
    found += [faiss_form(f"OPQ{dim},{ivf},PQ{dim}x4fsr,RFlat", PROBES) for dim in wide[:1]]
    found += [faiss_form("HNSW32", EFFORTS, "efSearch"), *nested[3:]]
    found += [faiss_form("FlatL2Panorama8", metric=faiss.METRIC_L2)]
    return found


class Bench:
    """Sweeps forms on one half of the queries and measures their best settings on the other."""

    def __init__(self, data: Data, clock: str) -> None:
        self.data = data
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
        self.exact = exact_neighbours(data.queries, data.vectors, K)
        self.tune, self.test = np.arange(0, len(data.queries), 2), np.arange(1, len(data.queries), 2)
        self.map_of_exact = self.quality(self.exact.ids[self.tune], self.tune)[1]

    def quality(self, found: Found, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Return recall@10, where what is as near as the last counts as found, and mAP@10 or NaN."""
        data = self.data
        near = np.empty(found.shape, bool)
        for at in range(0, len(rows), 500):
            part = rows[at : at + 500]
            products = np.einsum("qkd,qd->qk", data.vectors[found[at : at + 500]], data.queries[part])
            near[at : at + 500] = products >= self.exact.similarities[part, -1:] - 1e-6
        recall = float(np.minimum((near & (found >= 0)).sum(axis=1) / K, 1).mean())
        if data.labels is None:
            return recall, float("nan")
        relevant = (found >= 0) & (data.labels[0][found] == data.labels[1][rows, None])
        return recall, float(average_precision(relevant, K).mean())

    def timed(self, search: Callable[..., Found], rows: NDArray[np.int64]) -> tuple[float, Found]:
        """Return ms per query in one batch, and what was found."""
        queries = self.data.queries[rows]
        start = self.clock()
        found = search(queries)
        return (self.clock() - start) / len(rows) * 1e3, found

    def singly(self, search: Callable[..., Found], rows: NDArray[np.int64]) -> float:
        """Return ms per query, one at a time."""
        queries = [self.data.queries[row : row + 1] for row in rows[:SINGLES]]
        start = self.clock()
        for query in queries:
            search(query)
        return (self.clock() - start) / len(queries) * 1e3

    def sweep(self, form: Form, target: float) -> tuple[Callable[..., None], Callable[..., Found]]:
        """Build a form and find its points: by halving, the least of `inner` for each of `outer`."""
        start = time.perf_counter()
        configure, search, form.size = form.build(self.data.vectors)
        form.seconds = time.perf_counter() - start
        goals = [lambda point: point.recall >= target + MARGIN]
        if self.data.labels is not None:
            goals.append(lambda point: point.mean_ap >= self.map_of_exact - MAX_LOST)
        with threadpool_limits(1):
            for outer, goal in itertools.product(form.outer, goals):
                low, high = 0, len(form.inner) - 1
                while low <= high:
                    middle = (low + high) // 2
                    setting = (outer, form.inner[middle])
                    if setting not in form.points:
                        configure(*setting)
                        batch, found = self.timed(search, self.tune)
                        quality = self.quality(found, self.tune)
                        form.points[setting] = Point(*quality, batch, self.singly(search, self.tune))
                    point, best = form.points[setting], form.best(goal, False)
                    if goal(point):
                        high = middle - 1
                    elif (
                        best and point.batch > FAR * form.points[best].batch
                    ):  # more effort takes longer still
                        break
                    else:
                        low = middle + 1
        return configure, search


def finals(
    bench: Bench, entries: Sequence[tuple[Form, Any, Any]], admits: Callable[[Point], bool]
) -> dict[tuple[str, bool], tuple[Form, Setting, list[float], tuple[float, float]]]:
    """Return by form, and singly or not, the times in each round and the quality on the other half."""
    chosen = [(entry, single, entry[0].best(admits, single)) for entry in entries for single in (False, True)]
    runs: dict[tuple[str, bool], Any] = {}
    with threadpool_limits(1):
        for _ in range(ROUNDS):
            for (form, configure, search), single, setting in chosen:
                if setting is None:
                    continue
                configure(*setting)
                taken, found = (
                    (bench.singly(search, bench.test), None) if single else bench.timed(search, bench.test)
                )
                if (form.name, single) not in runs:
                    found = search(bench.data.queries[bench.test]) if found is None else found
                    runs[form.name, single] = (form, setting, [], bench.quality(found, bench.test))
                runs[form.name, single][2].append(taken)
    return runs


def times_faster(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


def fastest(runs: dict[tuple[str, bool], Any], single: bool, ours: bool) -> tuple[str, bool] | None:
    """Return the key of the fastest nested index, or of the fastest other that does not compare all."""
    kept = [key for key, run in runs.items() if key[1] == single and run[0].ours == ours]
    return min(kept, key=lambda key: median(runs[key][2]), default=None)


def figures(runs: dict[tuple[str, bool], Any], equal_map: dict[tuple[str, bool], Any]) -> dict[str, Any]:
    """Return the last line."""
    ours, single = fastest(runs, False, True), fastest(runs, True, True)
    rival, rival_single = fastest(runs, False, False), fastest(runs, True, False)
    same = equal_map or runs
    found: dict[str, Any] = {}
    if best := fastest(same, False, True):
        found["speedup"] = times_faster(same["Flat", False][2], same[best][2])
        found["map_lost"] = 100 * (same["Flat", False][3][1] - same[best][3][1])
    if best := fastest(same, True, True):
        found["single_query_speedup"] = times_faster(same["Flat", True][2], same[best][2])
    wide = [key for key in same if not key[1] and key[0] != "Flat" and not same[key][0].ours]
    if wide:
        best = min(wide, key=lambda key: median(same[key][2]))
        found["best_full_dim_speedup"] = times_faster(same["Flat", False][2], same[best][2])
    if ours and rival:
        found |= {"over_best_opponent": times_faster(runs[rival][2], runs[ours][2]), "opponent": rival[0]}
    if single and rival_single:
        found["over_best_opponent_single"] = times_faster(runs[rival_single][2], runs[single][2])
        found["opponent_single"] = rival_single[0]
    return found


def table(runs: dict[tuple[str, bool], Any]) -> Table:
    """Return a row for each form and way to ask, with ratios to exact search in the same rounds."""
    drawn = Table("search", "asked", "setting", "ms", "x", "recall@10 %", "mAP@10 %", "MiB", "build s")
    for (name, single), (form, setting, taken, quality) in sorted(
        runs.items(), key=lambda item: (item[0][1], median(item[1][2]))
    ):
        drawn.add_row(
            name,
            "singly" if single else "batch",
            " ".join(str(part) for part in setting if part is not None),
            f"{median(taken):.4f}",
            f"{times_faster(runs['Flat', single][2], taken):.1f}",
            *(f"{100 * value:.2f}" for value in quality),
            f"{form.size / 2**20:.0f}",
            f"{form.seconds:.0f}",
        )
    return drawn


def load(named: dict[str, str]) -> Data:
    """Return what the command line names."""
    if "texts" in named:
        vectors = encoded(named["texts"].split(","), int(named.get("count", "1000000")))
        return split(vectors, None, None)
    given = named.get("database")
    if given and given.endswith(".npy"):
        queries = np.load(named["query"]) if "query" in named else None
        return split(np.load(given, mmap_mode="r"), queries, None)
    folders = sorted(
        Path("outputs/runs").glob("*/embeddings/kanji4k/database"), key=lambda p: p.stat().st_mtime
    )
    if not given and not folders:
        raise UserError("no run has kanji4k embeddings", remedy="python embed.py run=... data=kanji4k")
    folder = Path(given) if given else folders[-1]
    base = embeddings.load(folder)
    asked = embeddings.load(Path(named.get("query", str(folder.parent / "query"))))
    labels = (base.labels, asked.labels) if base.has_labels and asked.has_labels else None
    return split(base.features, asked.features, labels)


def split(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32] | None,
    labels: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> Data:
    """Return unit vectors and evenly spaced queries, taken out of them where there are no others."""
    rows = np.unique(
        np.linspace(0, len(vectors if queries is None else queries) - 1, QUERIES).astype(np.int64)
    )
    width = vectors.shape[1]
    if queries is not None:
        chosen = None if labels is None else (labels[0], labels[1][rows])
        return Data(unit_prefixes(vectors, width), unit_prefixes(np.array(queries[rows]), width), chosen)
    keep = np.ones(len(vectors), bool)
    keep[rows] = False
    return Data(unit_prefixes(vectors[keep], width), unit_prefixes(vectors[rows], width), None)


def encoded(paths: Sequence[str], count: int) -> NDArray[np.float32]:
    """Return vectors of the first `count` different lines of files, by text_vectors.py's static encoder."""
    from text_vectors import DATA, ENCODERS, download

    packages = download(DATA / "packages")
    encode, lines = ENCODERS["wordllama"](packages), dict[str, None]()
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if len(line.split()) > 3:
                    lines[line.strip()] = None
                if len(lines) == count:
                    break
    texts = [*lines]
    return np.concatenate([encode(texts[at : at + 10_000]) for at in range(0, len(texts), 10_000)])


def swept(bench: Bench, named: dict[str, str], target: float) -> Iterator[tuple[Form, Any, Any]]:
    """Yield each form once it was swept, until the time is over."""
    until = time.monotonic() + 60 * float(named.get("minutes", "60"))
    every = forms(len(bench.data.vectors), bench.data.vectors.shape[1])
    for number, form in enumerate(every):
        if time.monotonic() > until:
            print("left out, the time is over:", *(one.name for one in every[number:]), file=sys.stderr)
            return
        yield form, *bench.sweep(form, target)
        best = form.best(lambda point: point.recall >= target + MARGIN, False)
        said = "never reaches the target" if best is None else f"{form.points[best].batch:.4f} ms"
        print(f"{form.name}: {said}, built in {form.seconds:.0f} s", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    if unknown := [part for part in arguments if part.partition("=")[0] not in OPTIONS]:
        raise UserError(unknown[0], expected=", ".join(f"{name}=..." for name in OPTIONS))
    named = dict(argument.split("=", 1) for argument in arguments)
    target, data = float(named.get("target", "0.95")), load(named)
    bench = Bench(data, named.get("clock", "cpu"))
    entries = list(swept(bench, named, target))
    runs = finals(bench, entries, lambda point: point.recall >= target + MARGIN)
    equal_map: dict[tuple[str, bool], Any] = {}
    if data.labels is not None:
        equal_map = finals(bench, entries, lambda point: point.mean_ap >= bench.map_of_exact - MAX_LOST)
    if "rows" in named:
        write_points(Path(named["rows"]), entries)
    console = Console(width=170)
    count, width = data.vectors.shape
    asked = f"{len(bench.test)} queries, one thread, recall@10 >= {target:g}"
    console.print(f"{count:,} vectors, D={width}, {asked}")
    console.print(table(runs))
    if equal_map:
        console.print("at most 0.1 points of mAP@10 lost:", table(equal_map))
    last = figures(runs, equal_map)
    last["promise_broken_share"] = max(row["broken"] for row in budgets(int(named.get("samples", "40"))))
    rounded = {name: value if isinstance(value, str) else round(value, 3) for name, value in last.items()}
    print(json.dumps(rounded))


def write_points(path: Path, entries: Sequence[tuple[Form, Any, Any]]) -> None:
    """Write what each setting gave on the queries that tune: the curves of quality against time."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["form", "outer", "inner", "recall", "map", "batch_ms", "single_ms", "bytes", "build_s"]
        )
        for form, *_ in entries:
            for setting, point in form.points.items():
                writer.writerow((form.name, *setting, *point, form.size, round(form.seconds, 1)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
