"""What nested maps of frozen text embeddings keep of nDCG@10, on documents and queries that they never saw.

python scripts/text_vectors.py --fit 40000 --queries 40000 && python scripts/bench_nest.py
python scripts/bench_nest.py --sets wordnet --maps prefix random svd

kept: nDCG@10 of exact search by cosine at m dims / that of the frozen vectors at full width, means over the
sets of scripts/text_vectors.py. Maps are fitted, trained and chosen on its fit_ files alone, and measured
on the others.

    prefix, random      the vectors as they are; a random rotation
    svd                 uncentered SVD of the documents, as unit vectors
    svd_both            of the queries and documents of pairs
    covariance          eigenvectors of the symmetric part of the covariance of queries and documents of pairs
    adaptor             train.py data=vectors data.base=<documents> model=adaptor
    adaptor_pairs       train.py data=vectors data.pairs=[<queries>,<documents>] model=adaptor

The last line is JSON. kept_*: of the adaptors, as shares of 1; d8, d16: at an eighth and a sixteenth of the
width. svd_*: of svd, and with pairs of the best of the three closed forms, by their means at that dim.
below_identity: how many dims of tasks are below the plain prefix by an adaptor: one-sided paired tests over
queries, 5 % with Holm's correction over all of them. apply_over_matmul: time of an adaptor over that of a
bare product of matrices. Encoders that were trained nested are controls: they are shown, and count in no
mean.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import norm
from text_vectors import DATA, SETS

from mrl_experiments.metrics.relevance import read_judgments, rows_of, scores
from mrl_experiments.search.neighbours import nearest

ROOT = Path(__file__).parents[1]
CLOSED, ADAPTORS = ("svd", "svd_both", "covariance"), ("adaptor", "adaptor_pairs")
MAPS = ("prefix", "random", *CLOSED, *ADAPTORS)
CONTROLS = ("wordllama",)
FIRST, LEVEL, RESAMPLES = 10, 0.05, 1000
SHARES = (1, 2, 4, 8, 16)  # widths: D / these

Array = NDArray[np.float32]
Map = Callable[[Array], Array]


@dataclass(frozen=True)
class Task:
    """One set by one encoder.

    Attributes:
        name: Set and encoder.
        documents: To fit on (N, D).
        pairs: Queries and a relevant document each (P, D), to fit on.
        test: Queries (Q, D), documents (N', D), and the grades of each query's documents by row.
    """

    name: str
    documents: Array
    pairs: tuple[Array, Array]
    test: tuple[Array, Array, list[dict[int, int]]]

    @classmethod
    def read(cls, folder: Path) -> "Task":
        """Read a folder that text_vectors.py wrote."""
        queries, documents, grades = _part(folder, "fit_")
        rows = [(query, document) for query, one in enumerate(grades) for document in one]
        asked, found = np.array(rows).T
        test = _part(folder, "")
        return cls("/".join(folder.parts[-2:]), documents, (queries[asked], documents[found]), test)

    @property
    def width(self) -> int:
        """D."""
        return int(self.documents.shape[1])

    def measure(self, mapped: Map, dims: Sequence[int]) -> dict[int, NDArray[np.float64]]:
        """Return nDCG@10 of each test query (Q,) at each dim."""
        queries, documents, grades = self.test
        found = nearest(mapped(queries), mapped(documents), dims, FIRST)
        metric = f"nDCG@{FIRST}"
        return {dim: scores(near.positions, grades, FIRST, [FIRST])[metric] for dim, near in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vectors", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--encoders", nargs="+", default=["minilm", *CONTROLS])
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=[*MAPS])
    parser.add_argument("--options", nargs="*", default=[], help="further ones of train.py, such as epochs=5")
    arguments = parser.parse_args()
    folders = [
        arguments.vectors / name / encoder for encoder in arguments.encoders for name in arguments.sets
    ]
    there = [folder for folder in folders if (folder / "qrels.tsv").exists()]
    for folder in sorted({*folders} - {*there}):
        print(f"{folder} is not there: see scripts/text_vectors.py", file=sys.stderr, flush=True)
    names = [
        name for name in arguments.maps if name not in ADAPTORS or find_spec("mrl_experiments.adaptor_file")
    ]
    results: dict[str, dict[str, dict[int, NDArray[np.float64]]]] = {}
    ratios: list[float] = []
    for task in map(Task.read, there):
        results[task.name] = {}
        for name in names:
            began = time.monotonic()
            mapped = fitted(name, task, arguments.options)
            results[task.name][name] = task.measure(mapped, [task.width // share for share in SHARES])
            ratios += [apply_ratio(mapped, task.documents)] if name in ADAPTORS else []
            print(f"{task.name} {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        show(task, results[task.name])
    print(json.dumps(summary(results) | {"apply_over_matmul": _rounded(max(ratios, default=None))}))


def _part(folder: Path, prefix: str) -> tuple[Array, Array, list[dict[int, int]]]:
    files = [folder / f"{prefix}{kind}.npy" for kind in ("queries", "documents")]
    vectors = [_unit(np.load(file).astype(np.float32)) for file in files]
    ids = [np.array(file.with_suffix(".ids.txt").read_text().split("\n")[:-1]) for file in files]
    path = folder / f"{prefix}qrels.tsv"
    judged = read_judgments(path)
    asked = rows_of(ids[0], [*judged], "query", path)
    found = rows_of(ids[1], [*{d for one in judged.values() for d in one}], "document", path)
    grades = [{found[document]: grade for document, grade in one.items()} for one in judged.values()]
    return vectors[0][[*asked.values()]], vectors[1], grades


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def fitted(name: str, task: Task, options: Sequence[str]) -> Map:
    """Return a map that is fitted to the first part of a task."""
    if name in ADAPTORS:
        return _trained(task, name == "adaptor_pairs", options)
    queries, documents = task.pairs
    covariance = queries.T @ documents
    moments = {
        "svd": lambda: task.documents.T @ task.documents,
        "svd_both": lambda: queries.T @ queries + documents.T @ documents,
        "covariance": lambda: covariance + covariance.T,
    }
    if name in moments:
        matrix = np.linalg.eigh(moments[name]().astype(np.float64))[1][:, ::-1]
    elif name == "random":
        matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(task.width, task.width)))[0]
    else:
        return lambda x: x
    rotation = np.ascontiguousarray(matrix, np.float32)
    return lambda x: x @ rotation


def _trained(task: Task, pairs: bool, options: Sequence[str]) -> Map:
    from mrl_experiments.adaptor_file import AdaptorFile  # part of data=vectors model=adaptor

    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.npy" for name in ("documents", "queries", "positives")]
        for file, vectors in zip(files, (task.documents, *task.pairs), strict=True):
            np.save(file, vectors)
        given = [f"data.base={files[0]}"] + ([f"data.pairs=[{files[1]},{files[2]}]"] if pairs else [])
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            "data=vectors",
            "model=adaptor",
            f"root={folder}/out",
        ]
        done = subprocess.run(
            [*command, *given, "logger=csv", *options], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(done.args)}\n{done.stderr}")
        (path,) = Path(folder).glob("out/runs/*/adaptor.safetensors")
        adaptor = AdaptorFile.load(path)
    print(f"{task.name}: {adaptor.map}", file=sys.stderr, flush=True)
    return adaptor.apply


def apply_ratio(mapped: Map, vectors: Array, rounds: int = 7) -> float:
    """Return the time of a map over that of a product with a (D, D) matrix, the median over rounds."""
    matrix = np.eye(vectors.shape[1], dtype=np.float32)

    def seconds(of: Map) -> float:
        began = time.perf_counter()
        of(vectors)
        return time.perf_counter() - began

    return median(seconds(mapped) / seconds(lambda x: x @ matrix) for _ in range(rounds))


def show(task: Task, found: Mapping[str, Mapping[int, NDArray[np.float64]]]) -> None:
    """Print what each map keeps at each dim, and the gain over SVD with its paired 95 % interval."""
    plain = found.get("prefix") or task.measure(lambda x: x, [task.width])
    full = float(plain[task.width].mean())
    table = Table(title=f"{task.name}: nDCG@{FIRST} kept, in percent of {full:.4f}; gain over svd in points")
    for column in ("map", *(str(task.width // share) for share in SHARES), "over svd at d/8", "at d/16"):
        table.add_column(column, justify="right")
    draw = np.random.default_rng(0)
    count = len(task.test[0])
    rows = draw.integers(0, count, (RESAMPLES, count))
    for name, by_dim in found.items():
        gains = []
        for dim in (task.width // 8, task.width // 16) if "svd" in found and name != "svd" else ():
            gain = 100 * (by_dim[dim] - found["svd"][dim]) / full
            low, high = np.quantile(gain[rows].mean(axis=1), (LEVEL / 2, 1 - LEVEL / 2))
            gains.append(f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})")
        table.add_row(name, *(f"{100 * by_dim[task.width // s].mean() / full:.1f}" for s in SHARES), *gains)
    Console(width=120).print(table)


def summary(
    results: Mapping[str, Mapping[str, Mapping[int, NDArray[np.float64]]]],
) -> dict[str, float | None]:
    """Return the figures of the last line; None where a map was not measured.

    Args:
        results: By task, map and dim, nDCG@10 of each query.
    """
    counted = {task: maps for task, maps in results.items() if task.split("/")[-1] not in CONTROLS}

    def kept(name: str, share: int) -> float | None:
        if not counted or not all(name in maps and "prefix" in maps for maps in counted.values()):
            return None
        shares = []
        for maps in counted.values():
            width = max(maps["prefix"])
            shares.append(maps[name][width // share].mean() / maps["prefix"][width].mean())
        return float(np.mean(shares))

    found: dict[str, float | None] = {}
    for share in (8, 16):
        found |= {f"kept_d{share}": kept("adaptor", share), f"svd_d{share}": kept("svd", share)}
    closed = [value for name in CLOSED if (value := kept(name, 8)) is not None]
    found |= {"kept_d8_pairs": kept("adaptor_pairs", 8), "svd_d8_pairs": max(closed, default=None)}
    found |= {"kept_d16_pairs": kept("adaptor_pairs", 16), "below_identity": below_identity(results)}
    return {name: _rounded(value) for name, value in found.items()}


def below_identity(results: Mapping[str, Mapping[str, Mapping[int, NDArray[np.float64]]]]) -> int | None:
    """Return how many dims of tasks an adaptor is below the plain prefix, by Holm's correction."""
    p_values = []
    for maps in results.values():
        for name in ADAPTORS:
            for dim, values in maps.get(name, {}).items():
                gain = values - maps["prefix"][dim]
                error = gain.std(ddof=1) / np.sqrt(len(gain))
                p_values.append(float(norm.cdf(gain.mean() / error)) if error else 1.0)
    for rejected, p_value in enumerate(sorted(p_values)):
        if p_value > LEVEL / (len(p_values) - rejected):
            return rejected
    return len(p_values) if p_values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
