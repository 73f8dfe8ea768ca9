"""Exact nearest neighbours by cosine at many nested sizes, in one pass over the data."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.directions import dtype_for, unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.nesting import prefix

# A block of scores, twice, stays in a core's second-level cache.
QUERY_BLOCK, DATABASE_BLOCK = 256, 512
WIDE = 64  # features from which a transposed view is as fast as a copy
DATABASE_CHUNK = 16 * DATABASE_BLOCK  # rows read and transposed at a time

Array = NDArray[np.float32]


class Neighbours(NamedTuple):
    """Nearest database vectors, nearest first; equally near ones in the order of the database.

    similarities: (Q, K) cosines. positions: (Q, K) rows of the database, int64.
    """

    similarities: Array
    positions: NDArray[np.int64]


def nearest(queries: Array, database: Array, dims: Sequence[int], k: int) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each size in `dims`, of unit-norm prefixes (Tables 2 and 8).

    queries: (Q, D). database: (N, D), may be a memory map. Nearest by cosine is nearest by L2 between unit
    vectors. The inner product of a prefix is that of the next shorter one plus that of the features between
    them, so all sizes together multiply as much as the largest alone. A GPU build of FAISS searches size by
    size instead. A prefix of zeros, as rectified features can have, has similarity 0 with everything.
    Vectors whose squares are out of float32's range are compared in float64.
    Raises UserError when k exceeds N.
    """
    dims = sorted(set(dims))
    if not 1 <= k <= len(database):
        raise UserError(
            f"k={k} neighbours in a database of {len(database)} vectors",
            expected=f"a k from 1 to {len(database)}",
        )
    if faiss.get_num_gpus() > 0:
        return {dim: _nearest_on_gpu(queries, database, dim, k) for dim in dims}
    search = _Search(queries, dims, k, dtype_for(dims, queries, database))
    threads = torch.get_num_threads()
    try:
        # Kernels of one thread on many blocks: the blocks are too small to share.
        with ThreadPoolExecutor(threads, initializer=_use_one_thread) as pool:
            for start in range(0, len(database), DATABASE_CHUNK):
                chunk = torch.from_numpy(np.array(database[start : start + DATABASE_CHUNK], search.dtype))
                search.add(chunk, start, pool)
    finally:
        torch.set_num_threads(threads)
    return search.result()


def inverse_norms(vectors: Tensor, dims: Sequence[int]) -> dict[int, Tensor]:
    """Return {dim: (N,)}, one over the norm of each prefix of vectors (N, D), or 0 for a zero prefix.

    The type is that of `vectors`, which `dtype_for` chooses.
    """
    squares = vectors.new_zeros(len(vectors))
    norms = {}
    for low, high in itertools.pairwise((0, *dims)):
        squares = squares + vectors[:, low:high].square().sum(dim=1)
        norms[high] = torch.where(squares > 0, squares.rsqrt(), 0.0)
    return norms


class _Search:
    """The running result of a search: for each size a heap of the nearest found so far, for every query.

    The heaps keep the smallest values, so queries enter negated: then FAISS drops the later of two equals.
    They hold float32: products scaled by the database's norms alone or, of products in float64, cosines.
    """

    def __init__(self, queries: Array, dims: Sequence[int], k: int, dtype: type[np.floating[Any]]) -> None:
        self.dims, self.dtype = dims, dtype
        self.segments = list(itertools.pairwise((0, *dims)))
        full = torch.from_numpy(np.array(prefix(queries, dims[-1]), dtype))
        self.scale = inverse_norms(full, dims)
        self.queries = [-full[:, low:high].contiguous() for low, high in self.segments]
        self.values = [np.empty((len(queries), k), np.float32) for _ in dims]
        self.positions = [np.empty((len(queries), k), np.int64) for _ in dims]
        self.heaps = [_heap(v, p) for v, p in zip(self.values, self.positions, strict=True)]

    def add(self, chunk: Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Compare all queries with database rows (n, D) that begin at `start`."""
        inverse = list(inverse_norms(chunk, self.dims).values())
        blocks = []
        for first in range(0, len(chunk), DATABASE_BLOCK):
            rows = slice(first, first + DATABASE_BLOCK)
            parts = [_columns(chunk[rows, low:high]) for low, high in self.segments]
            blocks.append((start + first, parts, [norms[rows] for norms in inverse]))
        starts = range(0, len(self.queries[0]), QUERY_BLOCK)
        for _ in pool.map(lambda row: self._compare(row, blocks), starts):
            pass

    def _compare(self, row: int, blocks: list[tuple[int, list[Tensor], list[Tensor]]]) -> None:
        queries = [part[row : row + QUERY_BLOCK] for part in self.queries]
        count = len(queries[0])
        for position, parts, inverse in blocks:
            products = queries[0].new_zeros(count, len(inverse[0]))
            scores = torch.empty_like(products)
            for dim, heap, query, part, norms in zip(
                self.dims, self.heaps, queries, parts, inverse, strict=True
            ):
                products.addmm_(query, part)
                torch.mul(products, norms, out=scores)
                if self.dtype is np.float64:
                    cosines = (scores * self.scale[dim][row : row + QUERY_BLOCK, None]).float()
                else:
                    cosines = scores
                heap.addn(len(norms), faiss.swig_ptr(cosines.numpy()), position, row, count)

    def result(self) -> dict[int, Neighbours]:
        """Return the neighbours in order."""
        found = {}
        for dim, heap, values, positions in zip(
            self.dims, self.heaps, self.values, self.positions, strict=True
        ):
            heap.reorder()
            scale = 1 if self.dtype is np.float64 else self.scale[dim].numpy()[:, None]
            similarities = -values * scale
            found[dim] = _order_equals(values, similarities, positions)
        return found


def _columns(block: Tensor) -> Tensor:
    """Transpose a block (n, d); a narrow one as a copy, which matrix products read several times faster."""
    return block.T if block.shape[1] >= WIDE else block.T.contiguous()


def _heap(values: Array, positions: NDArray[np.int64]) -> Any:
    heap = faiss.float_maxheap_array_t()
    heap.nh, heap.k = values.shape
    heap.val, heap.ids = faiss.swig_ptr(values), faiss.swig_ptr(positions)
    heap.heapify()
    return heap


def _order_equals(distances: Array, similarities: Array, positions: NDArray[np.int64]) -> Neighbours:
    """Sort equally distant neighbours by position, in the rows that have any."""
    tied = np.flatnonzero((np.diff(distances, axis=1) == 0).any(axis=1))
    order = np.lexsort((positions[tied], distances[tied]))
    positions[tied] = np.take_along_axis(positions[tied], order, axis=1)
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
