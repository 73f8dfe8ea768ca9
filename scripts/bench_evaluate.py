"""What k-NN at all nested dims costs beside k-NN at the largest one alone.

    python scripts/bench_evaluate.py

The one-pass search, at all dims and at the largest, and FAISS's exact search at the largest take turns on
the same vectors, with one thread; ratios are medians over turns. Times are CPU seconds, so that other
programs on the machine count little. The last line is one JSON object:

    knn_all_dims_ratio              all dims {8, ..., D} / the largest alone, the larger value over both D
    knn_all_dims_over_faiss_ratio   the same against FAISS's exact search at the largest dim
    knn_interpolated_dims_ratio     with the dims halfway between as well / the largest alone
    knn_metrics_seconds             wall seconds to recompute k-NN accuracy from kept neighbours
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mrl_experiments.embeddings import Embeddings, create, finalize, load, open_arrays
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.nesting import default_dims, interpolated_dims
from mrl_experiments.search.neighbours import nearest

Array = NDArray[np.float32]
WIDTHS = (512, 2048)
CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--database", type=int, default=100_000, help="vectors")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100, help="neighbours, as evaluation=retrieval needs")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    table = Table("D", "search", "dims", "CPU s", "/ largest alone", "/ FAISS", title="k-NN, median of turns")
    ratios: dict[str, list[float]] = {"all": [], "interpolated": [], "faiss": []}
    for width in WIDTHS:
        seconds = time_searches(width, options)
        alone, exact = np.array(seconds["largest alone"]), np.array(seconds["FAISS, largest alone"])
        for name, values in seconds.items():
            shares = [statistics.median(np.array(values) / base) for base in (alone, exact)]
            row = [name, str(len(searched_dims(width)[name])), f"{statistics.median(values):.2f}"]
            table.add_row(str(width), *row, *(f"{share:.2f}" for share in shares))
        ratios["all"].append(statistics.median(np.array(seconds["all"]) / alone))
        ratios["faiss"].append(statistics.median(np.array(seconds["all"]) / exact))
        ratios["interpolated"].append(statistics.median(np.array(seconds["interpolated"]) / alone))
    Console().print(table)
    figures = {
        "knn_all_dims_ratio": max(ratios["all"]),
        "knn_all_dims_over_faiss_ratio": max(ratios["faiss"]),
        "knn_interpolated_dims_ratio": max(ratios["interpolated"]),
        "knn_metrics_seconds": time_metrics(options),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def searched_dims(width: int) -> dict[str, tuple[int, ...]]:
    """Return the dims of each search."""
    nested = default_dims(width)
    return {
        "FAISS, largest alone": (width,),
        "largest alone": (width,),
        "all": nested,
        "interpolated": (*nested, *interpolated_dims(nested)),
    }


def time_searches(width: int, options: argparse.Namespace) -> dict[str, list[float]]:
    queries, database = vectors(options.queries, width, 1), vectors(options.database, width, 2)
    searches: dict[str, Callable[[], object]] = {
        name: lambda dims=dims: nearest(queries, database, dims, options.k)  # type: ignore[misc]
        for name, dims in searched_dims(width).items()
    }
    searches["FAISS, largest alone"] = lambda: exact_search(queries, database, options.k)
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(options.turns):
        for name, search in searches.items():
            start = time.process_time()
            search()
            seconds[name].append(time.process_time() - start)
    return seconds


def exact_search(queries: Array, database: Array, k: int) -> NDArray[np.int64]:
    """Return what IndexFlatIP finds, normalizing included."""
    units = [part.copy() for part in (queries, database)]
    for part in units:
        faiss.normalize_L2(part)
    return faiss.knn(units[0], units[1], k, metric=faiss.METRIC_INNER_PRODUCT)[1]


def vectors(count: int, width: int, seed: int) -> Array:
    """Return noisy copies of class centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLASSES, width), dtype=np.float32)
    return centres[labels(count)] + rng.standard_normal((count, width), dtype=np.float32)


def labels(count: int) -> NDArray[np.int64]:
    return np.arange(count) % CLASSES


def time_metrics(options: argparse.Namespace) -> float:
    """Return the wall seconds of evaluation=knn at all dims once the neighbours are kept."""
    width = WIDTHS[0]
    with tempfile.TemporaryDirectory() as folder:
        queries = stored(Path(folder) / "queries", vectors(options.queries, width, 1))
        database = stored(Path(folder) / "database", vectors(options.database, width, 2))
        counts = [1, 5, 10, 20, 50, options.k]
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            list(knn(queries, database, default_dims(width), k=counts))
            seconds.append(time.perf_counter() - start)
    return seconds[-1]


def stored(folder: Path, features: Array) -> Embeddings:
    create(folder, *features.shape)
    arrays = open_arrays(folder)
    arrays[0][:], arrays[1][:] = features, labels(len(features))
    finalize(folder, None, {})
    return load(folder)


if __name__ == "__main__":
    main()
