"""Exact nearest neighbours by cosine at many nested dims, in one pass over the data."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.directions import dtype_for, inverse_norms, unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.loops import tracked
from mrl_experiments.nested_accuracy import SAME_SCORE
from mrl_experiments.nesting import prefix

# A block of scores, twice, stays in a core's second-level cache.
QUERY_BLOCK, DATABASE_BLOCK = 256, 512
WIDE = 64  # features from which a transposed view is as fast as a copy
DATABASE_CHUNK = 16 * DATABASE_BLOCK  # rows read and transposed at a time

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


class Neighbours(NamedTuple):
    """Nearest database vectors, nearest first; equally near ones in the order of the database.

    Attributes:
        similarities: (Q, K) cosines.
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
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each of several dims, of unit-norm prefixes (Tables 2 and 8).

    Nearest by cosine is nearest by L2 between unit vectors. The inner product of a prefix is that of the next
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
    if faiss.get_num_gpus() > 0 and labels is None:
        each = tracked(dims, "searching neighbours", len(dims))
        return {dim: _nearest_on_gpu(queries, database, dim, k) for dim in each}
    threads, of_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        # Kernels of one thread on many blocks: the blocks are too small to share.
        _use_one_thread()
        search = _Search(queries, dims, k, dtype_for(dims, queries, database), labels)
        with ThreadPoolExecutor(threads, initializer=_use_one_thread) as pool:
            starts = range(0, len(database), DATABASE_CHUNK)
            for start in tracked(starts, "searching neighbours", len(starts)):
                chunk = torch.from_numpy(np.array(database[start : start + DATABASE_CHUNK], search.dtype))
                search.add(chunk, start, pool)
        return search.result()
    finally:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(of_faiss)


class _Search:
    """The running result of a search: for each dim a heap of the nearest found so far, for every query.

    The heaps keep the smallest values, so queries enter negated: then FAISS drops the later of two equals.
    They hold float32: products scaled by the database's norms alone or, of products in float64 and where
    labels matter, whole cosines.
    """

    def __init__(
        self,
        queries: Array,
        dims: Sequence[int],
        k: int,
        dtype: type[np.floating[Any]],
        labels: tuple[Labels, Labels] | None,
    ) -> None:
        self.dims, self.dtype, self.labels = dims, dtype, labels
        self.whole = dtype is np.float64 or labels is not None
        self.segments = list(itertools.pairwise((0, *dims)))
        full = torch.from_numpy(np.array(prefix(queries, dims[-1]), dtype))
        self.scale = inverse_norms(full.numpy(), dims)
        self.queries = [-full[:, low:high].contiguous() for low, high in self.segments]
        self.values = [np.empty((len(queries), k), np.float32) for _ in dims]
        self.positions = [np.empty((len(queries), k), np.int64) for _ in dims]
        self.heaps = [_heap(v, p) for v, p in zip(self.values, self.positions, strict=True)]

    def add(self, chunk: Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Compare all queries with database rows (n, D) that begin at `start`."""
        inverse = [torch.from_numpy(norms) for norms in inverse_norms(chunk.numpy(), self.dims).values()]
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
                if self.whole:
                    scores = (scores * torch.from_numpy(self.scale[dim][row : row + count, None])).float()
                if self.labels is not None:
                    labels, others = self.labels[0][row : row + count], self.labels[1]
                    same = labels[:, None] == others[position : position + len(norms)]
                    scores += SAME_SCORE * torch.from_numpy(same)
                heap.addn(len(norms), faiss.swig_ptr(scores.numpy()), position, row, count)

    def result(self) -> dict[int, Neighbours]:
        """Return the neighbours in order."""
        found = {}
        for dim, heap, values, positions in zip(
            self.dims, self.heaps, self.values, self.positions, strict=True
        ):
            heap.reorder()
            scale = 1 if self.whole else self.scale[dim][:, None]
            similarities = -values * scale
            if self.labels is not None:
                similarities += SAME_SCORE * (self.labels[1][positions] == self.labels[0][:, None])
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
