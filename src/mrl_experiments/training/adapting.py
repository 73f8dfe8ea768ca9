"""Adaptors before and after training: the closed form they start from, and which map is used in the end.

A map is used only where it was shown, on held-out rows, that no dim gets worse by it than the plain prefix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mrl_experiments.adaptive.bounds import p_value
from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.data.vectors.rows import Rows
from mrl_experiments.data.vectors.vector_data import VectorData
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object, write_json
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.method import Method
from mrl_experiments.models.adaptor import Adaptor, Matrix
from mrl_experiments.reductions.linear_map import BLOCK
from mrl_experiments.runs import Run
from mrl_experiments.search.same_rows import evenly_spaced, without_self

K = 10  # of the nearest are looked at
QUERIES, DATABASE = 4096, 20_000  # held-out rows at most
FEWER = 512  # queries by which closed forms are compared
REFITTED = 50_000  # rows at most, to which classifiers are fitted anew
SEPARATE = ("pairs", "queries")  # whose queries are no rows of the database
LEVEL = 0.05  # of error, over all dims and candidates
EVIDENCE = "adaptor.json"
TRAINED, ROTATION, CLOSED_FORM, IDENTITY = "trained", "trained rotation", "closed form", "identity"

# By what maps are compared on, `HeldOut.of`: what is promised of them.
PROMISED = {
    "rows": "rows like those of the base, as queries too",
    "labels": "rows like those with labels",
    "queries": "queries like those given in rows like those of the base",
    "pairs": "pairs like those given",
}

Array = NDArray[np.float32]
Quality = dict[int, NDArray[np.float64]]  # by dim, of each query (Q,), from 0 to 1


def start_adaptor(method: Method, data: Any) -> None:
    """Start an adaptor of vectors at the closed form that serves its training rows best."""
    if isinstance(adaptor := method.backbone, Adaptor):
        if not isinstance(data, VectorData):
            raise UserError(
                f"model=adaptor maps vectors, which data={data.name} are not", remedy="data=vectors"
            )
        rows, dims = HeldOut.from_data(data, "train", FEWER), list(method.spec.dims)

        def quality(matrix: Matrix) -> float:
            found = rows.quality({"matrix": matrix.astype(np.float32)}, dims)
            return float(np.mean([each.mean() for each in found.values()]))

        sides = (data.rows["train"],) * 2 if data.pairs is None else data.pairs["train"]
        adaptor.start_from(max(closed_forms(*sides, data.similarity), key=quality))


def closed_forms(queries: Rows, documents: Rows, similarity: str = "cosine") -> list[Matrix]:
    """Return orthogonal maps (D, D) whose first m columns keep most of what is compared, for every m.

    They are the eigenvectors of the symmetric part of the covariance of queries and documents, since one map
    serves both; of rows with themselves, their SVD. Uncentered, the mean has the first dim, which tells no
    rows apart where it is small; centered, it comes late. Vectors themselves are never moved.
    """
    width = queries.shape[1]
    covariance, sums = np.zeros((width, width)), np.zeros((2, width))
    for start in range(0, len(queries), BLOCK):
        sides = [rows[start : start + BLOCK].astype(np.float64) for rows in (queries, documents)]
        if similarity == "cosine":
            sides = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        covariance += sides[0].T @ sides[1]
        sums += [side.sum(axis=0) for side in sides]
    centered = covariance - np.outer(*sums) / len(queries)
    return [np.linalg.eigh(each + each.T)[1][:, ::-1] for each in (covariance, centered)]


def choose_map(method: Method, data: Any, run: Run | None) -> bool:
    """Turn a trained adaptor into the map that is used, and keep it with its evidence in the run's folder.

    Candidates are the trained map, of a linear one also the rotation whose prefixes span the same, then the
    closed form it started from, then the identity. One is used only if at every trained dim and at full width
    the lower confidence bound of its gain over the plain prefix on held-out rows is at least 0, corrected for
    all dims and candidates; of several, the one that keeps most on average over the dims. An orthogonal map
    changes nothing at full width.

    Args:
        method: Whose backbone may be an adaptor.
        data: The vectors.
        run: Where the choice is written; None: nowhere.

    Returns:
        Whether the map is another than the trained one.
    """
    adaptor = method.backbone
    if not isinstance(adaptor, Adaptor):
        return False
    simpler = {CLOSED_FORM: adaptor.start.double().cpu().numpy(), IDENTITY: np.eye(adaptor.width)}
    trained = adaptor.arrays()
    if adaptor.kind == "linear":
        both = trained["matrix"] + trained.get("query_matrix", trained["matrix"]).astype(np.float64)
        simpler = {ROTATION: np.linalg.qr(both)[0], **simpler}
    rotations = {name: {"matrix": x.astype(np.float32)} for name, x in simpler.items() if name != IDENTITY}
    dims = sorted({*method.spec.dims, adaptor.width})
    keeps_cosines = {TRAINED: adaptor.keeps_cosines} | dict.fromkeys(rotations, True)
    evidence = compare({TRAINED: trained, **rotations}, keeps_cosines, HeldOut.from_data(data), dims)
    chosen = str(evidence["map"])
    if chosen != TRAINED:
        adaptor.use(simpler[chosen])
        _refit(method, data)
    else:
        adaptor.eval()
    if run is not None:
        found = AdaptorFile(adaptor.arrays(), method.spec.dims, chosen, data.similarity)
        found.save(run.adaptor)
        write_json(run.folder / EVIDENCE, {**evidence, "adaptor": found.digest, "data": data.name})
    return chosen != TRAINED


def _refit(method: Method, data: VectorData) -> None:
    """Fit classifiers, where there are any, to another map than the one they were trained with."""
    if not isinstance(method, NestedClassifier) or data.labels is None:
        return
    method.eval()
    rows = data.rows["train"]
    rows = rows.take(evenly_spaced(len(rows), REFITTED))
    device = method.weights.device
    weights = torch.tensor(method.spec.weights, device=device)  # those of training may not have risen yet
    y = torch.from_numpy(data.labels["train"][rows.numbers]).to(device)
    with torch.no_grad():
        z = method.embed(torch.from_numpy(rows[:]).to(device))
    solver = torch.optim.LBFGS(method.head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        total = method.head(z, y, weights, method.label_smoothing).total
        total.backward()
        return total

    solver.step(loss)


@dataclass(frozen=True)
class HeldOut:
    """What maps are compared on: where they rank what is right among the K nearest.

    Without labels that is one row: the document of a pair, or the nearest by all D dims. The share of the K
    nearest that stay would prefer closed forms, after which queries find less of what they ask for.

    Attributes:
        queries: (Q, D), the first rows of the database, or queries of it.
        database: (N, D).
        answers: Labels (N,) of the database where a neighbour of the same label is right; the row (Q,) of the
            database that answers each query, of pairs; None: the nearest by all D dims is right.
        of: rows, labels, pairs or queries, which are no rows of the database.
        similarity: By which vectors are compared.
    """

    queries: Array
    database: Array
    answers: NDArray[np.int64] | None
    of: str
    similarity: str = "cosine"

    @classmethod
    def of_rows(
        cls,
        rows: Rows,
        labels: NDArray[np.int64] | None = None,
        queries: int = QUERIES,
        similarity: str = "cosine",
    ) -> "HeldOut":
        """Return held-out rows, each content once, since copies say nothing new."""
        distinct = rows.distinct()
        kept = distinct.take(evenly_spaced(len(distinct), DATABASE))
        # In an order of their content: were classes sorted in the file, the first rows would be of few.
        kept = kept.take(np.argsort(kept.keys))
        database = kept[:]
        answers = None if labels is None else labels[kept.numbers]
        return cls(database[:queries], database, answers, "rows" if labels is None else "labels", similarity)

    @classmethod
    def from_data(cls, data: VectorData, split: str = "val", queries: int = QUERIES) -> "HeldOut":
        """Return what the data hold out: pairs where there are any, else rows, with the labels they have."""
        if data.pairs is None:
            labels = None if data.labels is None else data.labels[split]
            return cls.of_rows(data.rows[split], labels, queries, data.similarity)
        pairs = data.pairs[split]
        if not data.judged:
            sides = (pairs.queries.distinct(), queries), (data.rows[split].distinct(), DATABASE)
            searched, base = (rows.take(evenly_spaced(len(rows), most)) for rows, most in sides)
            return cls(searched[:], base[:], None, "queries", data.similarity)
        _, first, same = np.unique(pairs.positives.keys, return_index=True, return_inverse=True)
        asked = evenly_spaced(len(same), queries)
        answers = same[asked].astype(np.int64)
        return cls(pairs.queries[asked], pairs.positives[first], answers, "pairs", data.similarity)

    @property
    def measure(self) -> str:
        """What quality is."""
        if self.of == "labels":
            return f"share of the {self.k} nearest that have the label"
        right = "each query's document" if self.of == "pairs" else "the nearest by all dims"
        return f"nDCG@{self.k} of {right}"

    @property
    def k(self) -> int:
        """K, or fewer where there are few rows."""
        return max(1, min(K, (len(self.database) - 1) // 4))

    def quality(self, arrays: Mapping[str, Array] | None, dims: list[int]) -> Quality:
        """Return the quality of each dim's prefix after a map, or before any."""
        several = self.of == "labels"
        gains = np.full(self.k, 1 / self.k) if several else 1 / np.log2(np.arange(self.k) + 2)
        return {dim: self._right(rows) @ gains for dim, rows in self._found(arrays, dims).items()}

    def _right(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the rows (Q, K) that are found are right."""
        right = self._nearest if self.answers is None else self.answers
        if self.of == "labels":
            rows, right = right[rows], right[: len(rows)]
        return rows == right[:, None]

    @cached_property
    def _nearest(self) -> NDArray[np.int64]:
        """The nearest (Q,) by all dims."""
        width = self.database.shape[1]
        return self._found(None, [width])[width][:, 0]

    def _found(self, arrays: Mapping[str, Array] | None, dims: list[int]) -> dict[int, NDArray[np.int64]]:
        from mrl_experiments.search.neighbours import nearest  # which loads FAISS

        queries, database, search = self.queries, self.database, partial(nearest, similarity=self.similarity)
        if arrays is not None:
            adaptor = AdaptorFile(arrays, dims, "")
            queries, database = adaptor.apply(queries, queries=True), adaptor.apply(database)
        if self.of in SEPARATE:
            return {dim: found.positions for dim, found in search(queries, database, dims, self.k).items()}
        own = np.arange(len(queries))
        return {
            dim: without_self(own, found.positions)[0]
            for dim, found in search(queries, database, dims, self.k + 1).items()
        }


def compare(
    maps: Mapping[str, Mapping[str, Array]],
    keeps_cosines: Mapping[str, bool],
    held_out: HeldOut,
    dims: list[int],
) -> dict[str, Any]:
    """Return which of some maps is used, and why.

    Args:
        maps: Candidates by name; of equally good ones the first is used.
        keeps_cosines: Those that change nothing at full width.
        held_out: Rows that none of them was fitted to.
        dims: All that are to be no worse, the full width last.

    Returns:
        JSON values: map, measure, rows, dims, and for the plain prefix and each candidate what is kept at
        each dim as a share of the full width's quality, the gain and its lower bound.
    """
    plain = held_out.quality(None, dims)
    full = max(float(plain[dims[-1]].mean()), np.finfo(float).tiny)
    level = LEVEL / (len(maps) * len(dims))
    tables: dict[str, Any] = {}
    for name, arrays in maps.items():
        ours = held_out.quality(arrays, dims)
        gains = [ours[dim] - plain[dim] for dim in dims]
        lower = [lower_bound(gain, level) for gain in gains]
        if keeps_cosines[name]:
            gains[-1], lower[-1] = np.zeros_like(gains[-1]), 0.0
        kept = [float((plain[dim] + gain).mean()) / full for dim, gain in zip(dims, gains, strict=True)]
        tables[name] = {"kept": kept, "gain": [float(gain.mean()) for gain in gains], "lower": lower}
    shown = [name for name, table in tables.items() if min(table["lower"]) >= 0]
    return {
        "map": max(shown, key=lambda name: np.mean(tables[name]["kept"]), default=IDENTITY),
        "measure": held_out.measure,
        "of": held_out.of,
        "rows": len(held_out.queries),
        "confidence": 1 - LEVEL,
        "dims": dims,
        "plain": [float(plain[dim].mean()) / full for dim in dims],
        "candidates": tables,
    }


def lower_bound(gains: NDArray[np.float64], level: float) -> float:
    """Return a lower confidence bound of the expected gain, valid for any number of independent rows.

    Args:
        gains: (N,) from -1 to 1.
        level: The probability that the bound is too high.
    """
    low, high = -1.0, float(gains.mean())
    for _ in range(12):  # to 1e-3, from below
        middle = (low + high) / 2
        if p_value(-gains, -middle, level) <= level:
            low = middle
        else:
            high = middle
    return 0.0 if low < 0 and p_value(-gains, 0.0, level) <= level else low


def print_choice(run: Run) -> None:
    """Print which map a run's adaptor has become, and what each dim keeps; nothing of other runs."""
    path = run.folder / EVIDENCE
    if not path.exists():
        return
    found = read_object(path)
    for line in _lines(found):
        print(line, flush=True)
    table = Table()
    names = ["plain prefix", *found["candidates"]]
    for column in ("dims", "bytes", *(f"kept: {name}" for name in names), "gain at least"):
        table.add_column(column, justify="right")
    shown = found["candidates"].get(found["map"], {})
    kept = [found["plain"], *(candidate["kept"] for candidate in found["candidates"].values())]
    lower = shown.get("lower", [0.0] * len(found["dims"]))
    for row, (dim, bound) in enumerate(zip(found["dims"], lower, strict=True)):
        shares = [f"{100 * each[row]:.1f} %" for each in kept]
        table.add_row(str(dim), str(4 * dim), *shares, f"{100 * bound:+.1f}")
    Console().print(table)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"kept: {found['measure']}, of {found['rows']:,} held-out {found['of']}, as a share of all dims"
    yield f"adaptor: {found['map']}"
    for name, candidate in found["candidates"].items():
        if name == found["map"]:
            break
        if min(candidate["lower"]) >= 0:
            more = 100 * np.subtract(found["candidates"][found["map"]]["kept"], candidate["kept"]).mean()
            yield f"  not {name}: {found['map']} keeps {more:.1f} points more on average"
            continue
        worst = int(np.argmin(candidate["lower"]))
        gain, bound = (100 * candidate[key][worst] for key in ("gain", "lower"))
        dim = found["dims"][worst]
        yield f"  not {name}: {dim} dims gain {gain:+.2f} points over the plain prefix, at least {bound:+.2f}"
    yield (
        f"promised with {found['confidence']:.0%} confidence: none of these dims is worse than the plain "
        f"prefix for {PROMISED[found['of']]}; nothing of other queries"
    )
