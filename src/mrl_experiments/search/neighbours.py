"""Exact nearest neighbours at many nested dims, by cosine, inner product or L2, in one pass over the data."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.adaptive.retrieval.rerank import COMPILED
from mrl_experiments.directions import SAME_SCORE, dtype_for, inverse_norms, prefix_norms, unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.nesting import prefix
from mrl_experiments.search.shards import shared

# A block of scores, twice, stays in a core's second-level cache.
QUERY_BLOCK, DATABASE_BLOCK = 256, 512
WIDE = 64  # features from which a transposed view is as fast as a copy
QUERIES = 256 * QUERY_BLOCK  # in memory at a time; each such run is a pass over the database
PAIRED = 32  # queries whose neighbours are in memory at a time
DATABASE_CHUNK = 16 * DATABASE_BLOCK  # rows read and transposed at a time
WORTH_COMPILING = 10_000_000  # pairs of vectors, from which numba saves more than loading it takes

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


class Neighbours(NamedTuple):
    """Nearest database vectors, nearest first; equally near ones in the order of the database.

    Attributes:
        similarities: (Q, K) cosines, or what `nearest` says of another similarity.
        positions: (Q, K) rows of the database, int64.
    """

    similarities: Array
    positions: NDArray[np.int64]


def nearest(
    queries: Array,
    database: Array,
    dims: Sequence[int],
    k: int,
    labels: tuple[Labels, Labels] | None = None,
    similarity: str = "cosine",
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each of several dims, of unit-norm prefixes (Tables 2 and 8).

    Nearest by cosine is nearest by L2 between unit vectors. Similarities of prefixes as they are have a
    scale on which SAME_SCORE means what it does for cosines: inner products are divided by the norm of the
    query and the median one r of the database; of L2 it is `-|q - d|^2 / (|q|^2 + r^2)`, for unit vectors the
    cosine less 1. The inner product of a prefix is that of the next
    shorter one plus that of the features between them, so all dims together multiply as much as the largest
    alone. A GPU build of FAISS searches dim by dim instead. A prefix of zeros, as rectified features can
    have, has similarity 0 with everything. Vectors whose squares are out of float32's range are compared in
    float64.

    Args:
        queries: (Q, D).
        database: (N, D), may be a memory map.
        dims: Each from 1 to D.
        k: How many neighbours.
        labels: Of the queries (Q,) and of the database (N,). A row with the query's label then counts as
            SAME_SCORE less near than it is, and so comes after all that are as near.
        similarity: cosine, inner_product or l2.

    Returns:
        {dim: neighbours}, dims ascending.

    Raises:
        UserError: If k exceeds N.

    Example:
        >>> vectors = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
        >>> nearest(vectors[:1], vectors, [1, 2], 2)[2].positions.tolist()
        [[0, 1]]
    """
    dims = sorted(set(dims))
    if not 1 <= k <= len(database):
        raise UserError(
            f"k={k} neighbours in a database of {len(database)} vectors",
            expected=f"a k from 1 to {len(database)}",
        )
    if faiss.get_num_gpus() > 0 and labels is None and similarity == "cosine":
        each = tracked(dims, "searching neighbours", len(dims))
        return {dim: _nearest_on_gpu(queries, database, dim, k) for dim in each}

    def search(rows: slice) -> dict[int, Neighbours]:
        parts = []
        for start in range(rows.start, max(rows.stop, rows.start + 1), QUERIES):
            cut = slice(start, min(start + QUERIES, rows.stop))
            same = labels and (labels[0][cut], labels[1])
            parts.append(_nearest(queries[cut], database, dims, k, same, similarity, dtype))
        return _joined(parts)

    dtype = dtype_for(dims, queries, database)
    return shared(len(queries), QUERY_BLOCK, search, _joined)


def _joined(parts: list[dict[int, Neighbours]]) -> dict[int, Neighbours]:
    """Return the neighbours of several runs of queries, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    whole = {dim: zip(*(part[dim] for part in parts), strict=True) for dim in parts[0]}
    return {dim: Neighbours(*map(np.concatenate, both)) for dim, both in whole.items()}


def _nearest(
    queries: Array,
    database: Array,
    dims: Sequence[int],
    k: int,
    labels: tuple[Labels, Labels] | None,
    similarity: str,
    dtype: type[np.floating[Any]],
) -> dict[int, Neighbours]:
    """Search queries that are in memory at a time, in one pass over the database."""
    threads, of_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        # Kernels of one thread on many blocks: the blocks are too small to share.
        _use_one_thread()
        scales = _scales(similarity, queries, database, dims, dtype)
        search = _Search(queries, dims, k, scales, labels, len(database))
        with ThreadPoolExecutor(threads, initializer=_use_one_thread) as pool:
            starts = range(0, len(database), DATABASE_CHUNK)
            for start in tracked(starts, "searching neighbours", len(starts)):
                chunk = torch.from_numpy(np.array(database[start : start + DATABASE_CHUNK], search.dtype))
                search.add(chunk, start, pool)
        return search.result()
    finally:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(of_faiss)


def similarities_of(
    queries: Array, database: Array, found: NDArray[np.int64], dim: int, similarity: str = "cosine"
) -> Array:
    """Return similarities of queries (Q, D) and rows (Q, K) of the database at one dim, as `nearest` does."""
    values = np.empty(found.shape, np.float32)
    scales = _scales(similarity, queries, database, [dim], np.float64)
    for start in range(0, len(queries), PAIRED):
        part = slice(start, start + PAIRED)
        rows = prefix(database[found[part].ravel()], dim).astype(np.float64)
        near = rows.reshape(-1, found.shape[1], dim)
        products = torch.from_numpy(-np.einsum("qkd,qd->qk", near, prefix(queries[part], dim)))
        (term,) = scales.of_rows(rows, [dim])
        combined = scales.combine(products, term.reshape(products.shape))
        values[part] = -scales.whole(combined.numpy(), dim, part)
    return values


class _Search:
    """The running result of a search: for each dim the nearest found so far, for every query.

    The smallest values are kept, so queries enter negated: then the later of two equals is dropped. Kept is
    float32: what is left of a similarity without the query's own scale and shift or, of products in float64
    and where labels matter, whole similarities.
    """

    def __init__(
        self,
        queries: Array,
        dims: Sequence[int],
        k: int,
        scales: "_Scales",
        labels: tuple[Labels, Labels] | None,
        database: int,
    ) -> None:
        self.dims, self.dtype, self.labels, self.scales = dims, scales.dtype, labels, scales
        self.whole = scales.dtype is np.float64 or labels is not None
        self.segments = list(itertools.pairwise((0, *dims)))
        full = torch.from_numpy(np.array(prefix(queries, dims[-1]), scales.dtype))
        self.queries = [-full[:, low:high].contiguous() for low, high in self.segments]
        self.kept = [_keeper(len(queries), database, k) for _ in dims]

    def add(self, chunk: Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Compare all queries with database rows (n, D) that begin at `start`."""
        terms = self.scales.of_rows(chunk.numpy(), self.dims)
        blocks = []
        for first in range(0, len(chunk), DATABASE_BLOCK):
            rows = slice(first, first + DATABASE_BLOCK)
            parts = [_columns(chunk[rows, low:high]) for low, high in self.segments]
            blocks.append((start + first, parts, [term[rows] for term in terms]))
        starts = range(0, len(self.queries[0]), QUERY_BLOCK)
        for _ in pool.map(lambda row: self._compare(row, blocks), starts):
            pass

    def _compare(self, row: int, blocks: list[tuple[int, list[Tensor], list[Tensor]]]) -> None:
        queries = [part[row : row + QUERY_BLOCK] for part in self.queries]
        asked = slice(row, row + len(queries[0]))
        space = queries[0].new_empty(2, len(queries[0]) * DATABASE_BLOCK)  # one for all blocks
        for position, parts, terms in blocks:
            shape = len(queries[0]), parts[0].shape[1]
            products, scores = (one[: shape[0] * shape[1]].view(shape) for one in space)
            products.zero_()
            for dim, kept, query, part, term in zip(self.dims, self.kept, queries, parts, terms, strict=True):
                products.addmm_(query, part)
                if self.whole or self.scales.similarity == "l2":
                    self.scales.combine(products, term, out=scores)
                    kept.add(self._whole(scores, dim, asked, position), None, position, row)
                else:
                    kept.add(products, term, position, row)

    def _whole(self, scores: Tensor, dim: int, asked: slice, position: int) -> Tensor:
        """Return whole similarities, where these are what is compared."""
        if not self.whole:
            return scores
        scores = torch.from_numpy(self.scales.whole(scores.numpy(), dim, asked)).float()
        if self.labels is not None:
            others = self.labels[1][position : position + scores.shape[1]]
            scores += SAME_SCORE * torch.from_numpy(self.labels[0][asked][:, None] == others)
        return scores

    def result(self) -> dict[int, Neighbours]:
        """Return the neighbours in order."""
        found = {}
        for dim in self.dims:
            values, positions = self.kept.pop(0).result()  # what is not needed any more goes
            similarities = -(values if self.whole else self.scales.whole(values, dim, slice(None)))
            if self.labels is not None:
                similarities += SAME_SCORE * (self.labels[1][positions] == self.labels[0][:, None])
            found[dim] = _order_equals(values, similarities, positions)
        return found


class _Heaps:
    """For every query a heap of the k smallest scores so far, by FAISS; as `reservoirs.Reservoirs`."""

    def __init__(self, queries: int, k: int) -> None:
        self.values, self.positions = np.empty((queries, k), np.float32), np.empty((queries, k), np.int64)
        self.heaps: Any = faiss.float_maxheap_array_t()
        self.heaps.nh, self.heaps.k = queries, k
        self.heaps.val, self.heaps.ids = faiss.swig_ptr(self.values), faiss.swig_ptr(self.positions)
        self.heaps.heapify()

    def add(self, scores: Tensor, factors: Tensor | None, position: int, row: int) -> None:
        """Take scores (q, n), times factors (n,), of the queries from `row` and the positions on."""
        if factors is not None:
            scores = scores * factors
        self.heaps.addn(scores.shape[1], faiss.swig_ptr(scores.numpy()), position, row, len(scores))

    def result(self) -> tuple[Array, NDArray[np.int64]]:
        """Return values and positions (Q, k), smallest first; equals in any order."""
        self.heaps.reorder()
        return self.values, self.positions


@dataclass(frozen=True)
class _Scales:
    """What turns negated inner products of prefixes into negated similarities.

    Attributes:
        similarity: One of SIMILARITIES.
        dtype: In which they are computed.
        scale: {dim: (Q,)} factors of each query.
        shift: {dim: (Q,)} what is added before; of l2 only.
        usual: {dim: r}, the median norm of the database; not of cosine.
    """

    similarity: str
    dtype: type[np.floating[Any]]
    scale: dict[int, NDArray[Any]]
    shift: dict[int, NDArray[Any]]
    usual: dict[int, float]

    @property
    def combine(self) -> Callable[..., Tensor]:
        """How products (Q, n) and what belongs to the rows (n,) are put together."""
        return torch.add if self.similarity == "l2" else torch.mul

    def of_rows(self, rows: NDArray[Any], dims: Sequence[int]) -> list[Tensor]:
        """Return what belongs to rows (n, D) of the database at each dim, (n,)."""
        if self.similarity == "cosine":
            terms = inverse_norms(rows, dims)
        elif self.similarity == "l2":
            terms = {dim: norms**2 / 2 for dim, norms in prefix_norms(rows, dims).items()}
        else:
            terms = {dim: np.full(len(rows), 1 / self.usual[dim], rows.dtype) for dim in dims}
        return [torch.from_numpy(np.asarray(term, rows.dtype)) for term in terms.values()]

    def whole(self, values: NDArray[Any], dim: int, asked: slice) -> NDArray[Any]:
        """Return negated similarities (Q, K) of the queries that are asked."""
        if self.shift:
            values = values + self.shift[dim][asked, None]
        return np.asarray(values * self.scale[dim][asked, None])


def _scales(
    similarity: str, queries: Array, database: Array, dims: Sequence[int], dtype: type[np.floating[Any]]
) -> _Scales:
    asked = np.array(prefix(queries, dims[-1]), dtype)
    if similarity == "cosine":
        return _Scales(similarity, dtype, inverse_norms(asked, dims), {}, {})
    usual = {dim: float(np.median(norms)) or 1.0 for dim, norms in prefix_norms(database, dims).items()}
    if similarity == "inner_product":
        return _Scales(similarity, dtype, inverse_norms(asked, dims), {}, usual)
    squares = {dim: norms**2 for dim, norms in prefix_norms(asked, dims).items()}
    scale = {dim: 2 / (square + usual[dim] ** 2) for dim, square in squares.items()}
    return _Scales(similarity, dtype, scale, {dim: square / 2 for dim, square in squares.items()}, usual)


def _columns(block: Tensor) -> Tensor:
    """Transpose a block (n, d); a narrow one as a copy, which matrix products read several times faster."""
    return block.T if block.shape[1] >= WIDE else block.T.contiguous()


def _keeper(queries: int, database: int, k: int) -> Any:
    """Return what keeps the k nearest of each query: a compiled loop where that is worth loading numba."""
    if not COMPILED or queries * database < WORTH_COMPILING:
        return _Heaps(queries, k)
    from mrl_experiments.search.reservoirs import Reservoirs

    return Reservoirs(queries, database, k)


def _order_equals(distances: Array, similarities: Array, positions: NDArray[np.int64]) -> Neighbours:
    """Sort equally distant neighbours by position, in the rows that have any."""
    tied = np.flatnonzero((np.diff(distances, axis=1) == 0).any(axis=1))
    order = np.lexsort((positions[tied], distances[tied]))
    for part in (similarities, positions):  # the former differ where labels matter
        part[tied] = np.take_along_axis(part[tied], order, axis=1)
    return Neighbours(similarities, positions)


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def _nearest_on_gpu(queries: Array, database: Array, dim: int, k: int) -> Neighbours:
    resources, metric = faiss.StandardGpuResources(), faiss.METRIC_INNER_PRODUCT
    similarities, positions = faiss.knn_gpu(
        resources, unit_prefixes(queries, dim), unit_prefixes(database, dim), k, metric=metric
    )
    return _order_equals(-similarities, similarities, positions)
