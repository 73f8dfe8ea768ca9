"""How much faster nested prefixes retrieve than the best other indexes, each tuned in the same run.

    python scripts/bench_retrieval.py                               the newest run with kanji4k embeddings
    python scripts/bench_retrieval.py database=FOLDER query=FOLDER  embeddings of a run
    python scripts/bench_retrieval.py database=base.npy [query=queries.npy]   vectors of any model
    python scripts/bench_retrieval.py texts=FILE[,FILE...] count=1000000      lines, by a static encoder,
    ... minutes=30 target=0.95 rows=points.csv clock=cpu kept=FOLDER forms=PCA64 rotated=yes

All search the same full vectors by their cosines on one thread. Each form is swept over its shortlist and
its effort on half of the queries, for the fastest setting with recall@10 of the true neighbours of at least
`target`, in batches and one query at a time; what is near the fastest of its kind is then measured in turn on
the other half, several times. `rows` keeps all points of the sweeps: recall, mAP, ms in batches and singly.
Forms are tried in the order that promises most, those first whose index is `kept` from an earlier run, and
once `minutes` are over no other is begun; `forms` is a regular expression of those that are tried. Where
vectors have labels, `speedup` is that over exact search at 0.1 points of mAP lost, as before; else at the
target. clock=cpu counts the seconds of the processor, which other work on the machine does not lengthen;
builds, on one thread, do so always. `rotated` turns vectors and queries at random: the same neighbours
without nesting. ScaNN and usearch take part where they are installed.

"nested" is an AdaptiveIndex that scans a prefix, "plain" one of another form, as a declared recall chooses
among; others are FAISS's own, or another library's. Prints tables and, as its last line, a JSON object.
`over_best_opponent`: the time of the best opponent over that of the best nested index, and
`over_best_opponent_any` over that of the best AdaptiveIndex of any form. `promise_broken_share`: what
bench_promises.py has found (results/benchmarks/promises.txt), or finds of so few `samples`.
"""

import csv
import itertools
import json
import re
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
from mrl_experiments.adaptive.retrieval.families import efforts_of, lists, nested_families
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.shortlist import core_of
from mrl_experiments.adaptive.retrieval.similarity import compared, exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import average_precision
from mrl_experiments.nesting import default_dims

K, SINGLES, ROUNDS, QUERIES, MAX_LOST, MARGIN = 10, 200, 5, 2000, 0.001, 0.002
LONG = 0.5  # seconds, after which no further query is asked singly
NESTED = ["nested"]
FINAL = 1.5  # times the best of its kind, up to which a form is measured anew
SHORTLISTS = (2, 3, 5, 7, 10, 15, 20, 30, 40)  # times K
PROBES = (2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256)
FAR = 1.2  # times the best latency, from which on a shortlist is given up
EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
OPTIONS = (
    "database",
    "query",
    "texts",
    "count",
    "minutes",
    "target",
    "rows",
    "clock",
    "samples",
    "kept",
    "only",
    "rotated",
    "forms",
)
Found = NDArray[np.int64]
Setting = tuple[Any, Any]
Key = tuple[str, int, bool]


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


class Built(NamedTuple):
    """What answers `search(queries)` after `configure(outer, inner)`, its bytes and seconds of building."""

    configure: Callable[..., None]
    search: Callable[..., Found]
    size: int
    seconds: float


@dataclass
class Form:
    """One kind of index and how it is swept.

    Attributes:
        outer: Settings to try each with the least that suffices of `inner`, which loses less as it grows.
        kind: "nested", "plain" for an AdaptiveIndex of vectors of any kind, or "opponent".
        key: Codes and dim of the index that it shares with others, and whether it holds the norm of the rest.
    """

    name: str
    build: Callable[["Store"], Built]
    outer: Sequence[Any] = (None,)
    inner: Sequence[Any] = (None,)
    kind: str = "opponent"
    key: Key = ("", 0, False)
    seconds: float = 0.0
    size: int = 0
    points: dict[Setting, Point] = field(default_factory=dict)
    times: dict[tuple[Setting, bool], list[float]] = field(default_factory=dict)

    def best(self, admits: Callable[[Point], bool], single: bool) -> Setting | None:
        """Return the fastest setting that is admitted."""
        kept = [setting for setting, point in self.points.items() if admits(point)]
        return min(kept, key=lambda one: self.points[one][3 if single else 2], default=None)


def name_of(key: Key) -> str:
    """Return the name of an index's file."""
    codes, dim, rest = key
    return f"{codes.replace(',', '_')}-{dim}" + ("-rest" if rest else "")


class Store:
    """FAISS's indexes of some unit vectors, each built once, or read where an earlier run kept it.

    Attributes:
        flat: The vectors as FAISS's exact index, by which opponents order their shortlists.
    """

    def __init__(self, units: NDArray[np.float32], folder: Path | None) -> None:
        self.units, self.folder, self.ids = units, folder, np.arange(len(units))
        self.flat: Any = faiss.IndexFlatIP(units.shape[1])
        self.flat.add(units)
        self.made: dict[Key, tuple[Any, float]] = {}

    def index(self, key: Key, metric: int = faiss.METRIC_INNER_PRODUCT) -> tuple[Any, float]:
        """Return the index of the prefixes at a dim, and the seconds that building it took."""
        if key not in self.made:
            self.made[key] = self._kept(name_of(key)) or self._built(key, metric)
        return self.made[key]

    def let_go(self, used: Sequence[Key]) -> None:
        """Free the indexes that are none of these."""
        self.made = {key: made for key, made in self.made.items() if key in used}

    def has(self, key: Key) -> bool:
        """True if an earlier run has kept an index."""
        return bool(self.folder and (self.folder / f"{name_of(key)}.faiss").exists())

    def _kept(self, name: str) -> tuple[Any, float] | None:
        path = self.folder and self.folder / f"{name}.faiss"
        if not path or not path.exists():
            return None
        return faiss.read_index(str(path)), float(path.with_suffix(".seconds").read_text())

    def _built(self, key: Key, metric: int) -> tuple[Any, float]:
        (codes, dim, rest), name = key, name_of(key)
        start = time.process_time()
        units = compared(self.units, dim, "cosine", rest)
        index: Any = faiss.index_factory(units.shape[1], codes, metric)
        index.train(units)
        index.add(units)
        seconds = time.process_time() - start
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.seconds").write_text(str(seconds))
            path = self.folder / f"{name}.faiss"
            faiss.write_index(index, f"{path}.part")
            Path(f"{path}.part").rename(path)
        return index, seconds


def ours(codes: str, dim: int, plans: Sequence[Any], efforts: Sequence[str], kind: str) -> Form:
    """Return an AdaptiveIndex that scans `dim` features; an outer setting is its stages and patience."""
    rest = kind == "nested" and "SQ8" in codes
    key = codes, dim, rest

    def build(store: Store) -> Built:
        base, seconds = store.index(key)
        spec = IndexSpec((dim,), codes, plans[0], rest=rest)
        index = AdaptiveIndex(spec, store.units, store.ids, {dim: base})

        def configure(outer: Any, inner: str) -> None:
            stages, patience = outer
            index.configure(inner + (f",patience={patience}" if patience else ""), stages)

        return Built(
            configure, lambda queries: index.search_stages(queries).ids, index.shortlist_bytes, seconds
        )

    return Form(f"{kind} {dim}: {codes}", build, [(plan, 0) for plan in plans], efforts, kind, key)


def faiss_form(
    codes: str, width: int, inner: Sequence[int] = (), effort: str = "nprobe", metric: int = 0
) -> Form:
    """Return an index of FAISS's factory, which re-ranks by itself where its codes end in RFlat."""
    core_codes = codes.removesuffix(",RFlat")
    key = core_codes, width, False
    refined = core_codes != codes

    def build(store: Store) -> Built:
        index, seconds = (store.flat, 0.0) if codes == "Flat" else store.index(key, metric)
        space = faiss.ParameterSpace()
        core = core_of(index)
        size = int(faiss.serialize_index(index).nbytes) + (store.units.nbytes if refined else 0)
        if isinstance(core, faiss.IndexIVFFastScan):
            core.implem = 11  # as AdaptiveIndex does: a tenth faster
        search: Any = refining(index, store.flat) if refined else index

        def configure(outer: Any, inner: Any) -> None:
            if inner is not None:
                space.set_index_parameter(core, effort, inner)
            if refined:
                search.k_factor = outer

        def found(queries: NDArray[np.float32], parts: Any = (index, store.flat)) -> Found:
            return search.search(queries, K)[1]  # parts: what it points to stays

        return Built(configure, found, size, seconds)

    return Form(codes, build, SHORTLISTS if refined else (None,), inner or (None,), key=key)


def refining(base: Any, flat: Any) -> Any:
    """Return FAISS's re-rank of what an index finds by vectors that several share; it points to both."""
    found: Any = faiss.IndexRefineFlat(faiss.IndexFlatIP(base.d))
    found.base_index, found.refine_index, found.own_refine_index, found.ntotal = (
        base,
        flat,
        False,
        base.ntotal,
    )
    return found


def usearch_form() -> Form:
    """Return usearch's graph."""

    def build(store: Store) -> Built:
        from usearch.index import Index

        start, units = time.process_time(), store.units
        index: Any = Index(ndim=units.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=64)
        path = store.folder and store.folder / "usearch"
        if path and path.exists():
            index.load(str(path))
            seconds = float(path.with_suffix(".seconds").read_text())
        else:
            index.add(store.ids, units)
            seconds = time.process_time() - start
        if path and not path.exists():
            index.save(str(path))
            path.with_suffix(".seconds").write_text(str(seconds))

        def configure(_: Any, inner: int) -> None:
            index.expansion_search = inner

        def search(queries: NDArray[np.float32]) -> Found:
            return np.asarray(index.search(queries, K, threads=1).keys, np.int64).reshape(len(queries), K)

        return Built(configure, search, index.memory_usage, seconds)

    return Form("usearch HNSW32", build, (None,), EFFORTS)


def scann_form(count: int) -> Form:
    """Return ScaNN's lists with anisotropic codes of two features, re-ranked by the vectors."""
    leaves = max(1, lists(count) // 2)

    def build(store: Store) -> Built:
        import scann

        start, units = time.process_time(), store.units
        builder = scann.scann_ops_pybind.builder(units, K, "dot_product")
        builder = builder.tree(leaves, 1, training_sample_size=min(count, 250_000))
        index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(K).build()
        seconds = time.process_time() - start
        chosen: dict[str, int] = {}

        def configure(outer: int, inner: int) -> None:
            chosen.update(leaves_to_search=inner, pre_reorder_num_neighbors=outer * K)

        def search(queries: NDArray[np.float32]) -> Found:
            if len(queries) == 1:
                return np.asarray(index.search(queries[0], **chosen)[0], np.int64)[None]
            return np.asarray(index.search_batched(queries, **chosen)[0], np.int64)

        return Built(configure, search, units.nbytes + units.nbytes // 16, seconds)

    return Form(f"ScaNN tree{leaves}, AH2", build, SHORTLISTS, PROBES)


def forms(count: int, width: int) -> list[Form]:
    """Return what is tried, in the order in which it promises most."""
    ivf, flat = f"IVF{lists(count)}", f"IVF{max(1, lists(count) // 2)},Flat"
    every = default_dims(width)

    def efforts(codes: str, searched: str) -> Sequence[str]:
        """Return what is swept: of lists of bytes the margin, as a declared recall does."""
        if codes.endswith("SQ8") and searched == "nprobe":
            return efforts_of(lists(count), "SQ8")
        return [f"{searched}={value}" for value in (PROBES if searched == "nprobe" else EFFORTS)]

    def nested(dim: int, codes: str) -> Form:
        plans: Sequence[Any] = [((dim, factor * K), (width, K)) for factor in SHORTLISTS]
        if codes != "SQ8":
            plans = nested_families(count, (dim, *(other for other in every if other >= 2 * dim)), K)[0].plans
        return ours(f"{ivf},{codes}", dim, plans, efforts(codes, "nprobe"), "nested")

    def both(codes: str, searched: str = "nprobe") -> list[Form]:
        """Return an opponent and the AdaptiveIndex that scans the same index."""
        inner = PROBES if searched == "nprobe" else EFFORTS
        lines = [((width, factor * K), (width, K)) for factor in SHORTLISTS]
        own = ours(codes, width, lines, efforts(codes, searched), "plain")
        refined = codes if codes.startswith("HNSW") else f"{codes},RFlat"
        return [faiss_form(refined, width, inner, searched), own]

    found = [faiss_form("Flat", width), nested(64, "SQ8"), *both(f"PCA64,{ivf},SQ8")]
    found += [nested(128, "SQ8"), faiss_form(f"PCA64,{ivf},PQ64x4fsr,RFlat", width, PROBES)]
    found += [nested(32, "SQ8"), *([scann_form(count)] if find_spec("scann") else [])]
    found += [nested(64, "PQ64x4fsr"), *both("HNSW32_SQ8", "efSearch")]
    found += [*both(f"PCA128,{ivf},SQ8"), *both(f"RR{width},{ivf},RaBitQfs")]
    found += both(f"OPQ64,{ivf},PQ64x4fsr")
    found += [faiss_form(f"PCA64,{ivf}_HNSW32,SQ8,RFlat", width, PROBES)]
    found += [faiss_form("PCA64,HNSW32_SQ8,RFlat", width, EFFORTS, "efSearch")]
    found += [faiss_form(f"PCA{dim},{ivf},PQ{dim}x4fsr,RFlat", width, PROBES) for dim in (32, 128)]
    found += [form for size in (width // 4, width // 2) for form in both(f"{ivf},PQ{size}x4fsr")]
    found += [nested(32, "PQ32x4fsr"), nested(128, "PQ128x4fsr"), faiss_form(flat, width, PROBES)]
    found += [faiss_form("HNSW32", width, EFFORTS, "efSearch")]
    found += [usearch_form()] if find_spec("usearch") else []
    padded = f"IVF{max(1, lists(count) // 8)},FlatPanorama8"  # each list is padded to 1,024 vectors
    found += [faiss_form(padded, width, PROBES, metric=faiss.METRIC_L2)]
    found += [faiss_form("FlatL2Panorama8", width, metric=faiss.METRIC_L2)]
    return [form for form in found if form.kind == "opponent" or form.key[1] <= width]


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

    def batch(self, search: Callable[..., Found], rows: NDArray[np.int64]) -> float:
        """Return ms per query in one batch."""
        return self.timed(search, rows)[0]

    def singly(self, search: Callable[..., Found], rows: NDArray[np.int64]) -> float:
        """Return ms per query, one at a time; of a search that takes long, of fewer queries."""
        start, asked = self.clock(), 0
        while asked < SINGLES and (asked < 20 or self.clock() - start < LONG):
            search(self.data.queries[rows[asked] : rows[asked] + 1])
            asked += 1
        return (self.clock() - start) / asked * 1e3

    def sweep(self, form: Form, store: Store, target: float) -> Built:
        """Build a form and find its points: by halving, the least of `inner` for each of `outer`."""
        built = form.build(store)
        form.size, form.seconds = built.size, built.seconds
        goals = [lambda point: point.recall >= target + MARGIN]
        if self.data.labels is not None:
            goals.append(lambda point: point.mean_ap >= self.map_of_exact - MAX_LOST)
        with threadpool_limits(1):
            built.search(self.data.queries[:2])  # compiles
            for outer, goal in itertools.product(form.outer, goals):
                self.least(form, built, outer, goal)
            for goal, single in itertools.product(goals, (False, True)):
                if form.kind != "opponent" and (best := form.best(goal, single)):
                    for setting in sooner(best):
                        self.point(form, built, setting)
        return built

    def least(self, form: Form, built: Built, outer: Any, goal: "Goal") -> None:
        """Find the least of `inner` that reaches a goal; of what never does only the most is measured."""
        low, high = 0, len(form.inner) - 1
        if form.best(goal, False) is None and not goal(self.point(form, built, (outer, form.inner[-1]))):
            return
        while low <= high:
            middle = (low + high) // 2
            point = self.point(form, built, (outer, form.inner[middle]))
            best = form.best(goal, False)
            if goal(point):
                high = middle - 1
            elif best and point.batch > FAR * form.points[best].batch:
                return  # more effort takes longer still
            else:
                low = middle + 1

    def point(self, form: Form, built: Built, setting: Setting) -> Point:
        """Return what a setting gives on the queries that tune, measured once."""
        if setting not in form.points:
            built.configure(*setting)
            batch, found = self.timed(built.search, self.tune)
            quality = self.quality(found, self.tune)
            form.points[setting] = Point(*quality, batch, self.singly(built.search, self.tune))
        return form.points[setting]


def sooner(setting: Setting) -> list[Setting]:
    """Return settings of an AdaptiveIndex that end a re-rank early, by this shortlist or twice as many."""
    (((dim, keep), *later), _), effort = setting
    if "margin" in effort:
        return []  # whose search needs no patience
    plans = [((dim, longer), *later) for longer in (keep, 2 * keep)]
    return [((plan, patience), effort) for plan in plans for patience in (K // 2, K) if later]


Goal = Callable[[Point], bool]
Run = tuple[Form, Setting, list[float], tuple[float, float]]
Entry = tuple[Form, Built]


def finals(bench: Bench, entries: Sequence[Entry], admits: Goal) -> dict[tuple[str, bool], Run]:
    """Return by form, and singly or not, the times in each round and the quality on the other half."""
    runs: dict[tuple[str, bool], Run] = {}
    chosen = [(entry, single, entry[0].best(admits, single)) for entry in entries for single in (False, True)]
    with threadpool_limits(1):
        for _ in range(ROUNDS):
            for (form, built), single, setting in chosen:
                if setting is None:
                    continue
                built.configure(*setting)
                if (form.name, single) not in runs:
                    quality = bench.quality(built.search(bench.data.queries[bench.test]), bench.test)
                    runs[form.name, single] = (form, setting, [], quality)
                taken = bench.singly if single else bench.batch
                runs[form.name, single][2].append(taken(built.search, bench.test))
    return runs


def times_faster(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return median(one / other for one, other in zip(slow, fast, strict=True))


def fastest(runs: dict[tuple[str, bool], Run], single: bool, kinds: Sequence[str]) -> tuple[str, bool] | None:
    """Return the key of the fastest form of some kinds."""
    kept = [key for key, run in runs.items() if key[1] == single and run[0].kind in kinds]
    return min(kept, key=lambda key: median(runs[key][2]), default=None)


def figures(runs: dict[tuple[str, bool], Run], equal_map: dict[tuple[str, bool], Run]) -> dict[str, Any]:
    """Return the last line."""
    same, found = equal_map or runs, dict[str, Any]()
    if best := fastest(same, False, ["nested"]):
        found["speedup"] = times_faster(same["Flat", False][2], same[best][2])
        if equal_map:
            found["map_lost"] = 100 * (same["Flat", False][3][1] - same[best][3][1])
    if best := fastest(same, True, ["nested"]):
        found["single_query_speedup"] = times_faster(same["Flat", True][2], same[best][2])
    if best := fastest(same, False, ["opponent"]):
        found["best_full_dim_speedup"] = times_faster(same["Flat", False][2], same[best][2])
    for single, end in ((False, ""), (True, "_single")):
        rival = fastest(runs, single, ["opponent"])
        for kinds, name in (
            (["nested"], "over_best_opponent"),
            (["nested", "plain"], "over_best_opponent_any"),
        ):
            best = fastest(runs, single, kinds)
            if best and rival:
                found[name + end] = times_faster(runs[rival][2], runs[best][2])
                found[name.replace("over_best_opponent", "index") + end] = best[0]
        if rival:
            found["opponent" + end] = rival[0]
    return found


def table(runs: dict[tuple[str, bool], Run]) -> Table:
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


def rotated(data: Data) -> Data:
    """Return the same neighbours without nesting: vectors and queries after one random rotation."""
    square = np.random.default_rng(0).normal(size=(data.vectors.shape[1],) * 2)
    turn = np.linalg.qr(square)[0].astype(np.float32)
    return Data(data.vectors @ turn, data.queries @ turn, data.labels)


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


def swept(bench: Bench, named: dict[str, str], store: Store, target: float) -> Iterator[Entry]:
    """Yield each form once it was swept, until the time is over."""
    until = time.monotonic() + 60 * float(named.get("minutes", "60"))
    pending = forms(len(bench.data.vectors), bench.data.vectors.shape[1])
    pending = [
        form for form in pending if re.search(named.get("forms", ""), form.name) or form.name == "Flat"
    ]
    while pending:
        if time.monotonic() > until:
            print("left out, the time is over:", *(one.name for one in pending), file=sys.stderr)
            return
        form = next((one for one in pending if store.has(one.key)), pending[0])
        pending.remove(form)
        started = time.perf_counter()
        try:
            built = bench.sweep(form, store, target)
        except RuntimeError as error:  # of FAISS
            print(f"{form.name}: left out, {error}", file=sys.stderr, flush=True)
            continue
        yield form, built
        best = form.best(lambda point: point.recall >= target + MARGIN, False)
        said = "never reaches the target" if best is None else f"{form.points[best].batch:.4f} ms"
        if single := form.best(lambda point: point.recall >= target + MARGIN, True):
            said += f", singly {form.points[single].single:.4f}"
        taken = f"{time.perf_counter() - started:.0f} s"
        print(f"{form.name}: {said}, built in {form.seconds:.0f} s, {taken}", file=sys.stderr, flush=True)


def worth(entries: Sequence[Entry], admits: Goal) -> list[Entry]:
    """Return the forms that are measured anew: exact search, and of each kind what is near its fastest."""
    found = {"Flat"}
    for single in (False, True):
        times: dict[str, dict[str, float]] = {}
        for form, _ in entries:
            if (setting := form.best(admits, single)) is not None:
                times.setdefault(form.kind, {})[form.name] = form.points[setting][3 if single else 2]
        for of_kind in times.values():
            found |= {name for name, taken in of_kind.items() if taken <= FINAL * min(of_kind.values())}
    return [(form, built) for form, built in entries if form.name in found]


def main(arguments: Sequence[str]) -> None:
    if unknown := [part for part in arguments if part.partition("=")[0] not in OPTIONS]:
        raise UserError(unknown[0], expected=", ".join(f"{name}=..." for name in OPTIONS))
    named = dict(argument.split("=", 1) for argument in arguments)
    target, data = float(named.get("target", "0.95")), load(named)
    if named.get("rotated") == "yes":
        data = rotated(data)
    store = Store(data.vectors, Path(named["kept"]) if "kept" in named else None)
    if named.get("only") == "build":
        build_all(store)
        return
    bench = Bench(data, named.get("clock", "cpu"))
    goals: list[Goal] = [lambda point: point.recall >= target + MARGIN]
    if data.labels is not None:
        goals.append(lambda point: point.mean_ap >= bench.map_of_exact - MAX_LOST)
    every: list[Form] = []
    entries: list[Entry] = []
    for entry in swept(bench, named, store, target):
        every.append(entry[0])
        entries.append(entry)
        if "rows" in named:
            write_points(Path(named["rows"]), every)  # whatever may happen to what follows
        names = {form.name for goal in goals for form, _ in worth(entries, goal)}
        entries = [one for one in entries if one[0].name in names]  # the others' memory is freed
        store.let_go([form.key for form, _ in entries])
        del entry
    runs, *others = (finals(bench, worth(entries, goal), goal) for goal in goals)
    console = Console(width=150)
    count, width = data.vectors.shape
    asked = f"{len(bench.test)} queries, one thread, recall@10 >= {target:g}"
    console.print(f"{count:,} vectors, D={width}, {asked}")
    console.print(table(runs))
    if others:
        console.print("at most 0.1 points of mAP@10 lost:", table(others[0]))
    console.print(
        "Not measured again, others of their kind took less:", *left(every, runs, goals[0]), sep="\n  "
    )
    last = figures(runs, others[0] if others else {})
    last["promise_broken_share"] = broken_promises(int(named.get("samples", "0")))
    rounded = {name: value if isinstance(value, str) else round(value, 3) for name, value in last.items()}
    print(json.dumps(rounded))


def broken_promises(samples: int) -> float:
    """Return the largest share of broken promises, of so many samples or as bench_promises.py found it."""
    if samples:
        return max(row["broken"] for row in budgets(samples))
    kept = Path(__file__).parents[1] / "results/benchmarks/promises.txt"
    return float(json.loads(kept.read_text().splitlines()[-1])["promise_broken_share"])


def left(every: Sequence[Form], runs: dict[tuple[str, bool], Run], admits: Goal) -> Iterator[str]:
    """Yield a line for each form that was swept alone."""
    for form in every:
        if (form.name, False) not in runs:
            said = "never reaches the target"
            if best := form.best(admits, False):
                single = form.best(admits, True) or best
                said = f"{form.points[best].batch:.3f} ms, singly {form.points[single].single:.3f}"
            yield f"{form.name}: {said}, {form.size / 2**20:.0f} MiB, built in {form.seconds:.0f} s"


def build_all(store: Store) -> None:
    """Build what lists of forms share, and keep it."""
    for form in forms(len(store.units), store.units.shape[1])[1:]:
        if form.key[0] or form.name.startswith("usearch"):
            start = time.perf_counter()
            try:
                form.build(store)
            except RuntimeError as error:
                print(f"{form.name}: {error}", file=sys.stderr)
            store.made.clear()
            print(f"{form.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def write_points(path: Path, every: Sequence[Form]) -> None:
    """Write what each setting gave on the queries that tune: the curves of quality against time."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["form", "kind", "outer", "inner", "recall", "map", "batch_ms", "single_ms", "bytes", "build_s"]
        )
        for form in every:
            for setting, point in form.points.items():
                writer.writerow((form.name, form.kind, *setting, *point, form.size, round(form.seconds, 1)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
