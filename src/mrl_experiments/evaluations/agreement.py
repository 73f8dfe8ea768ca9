"""Agreement without labels: how far few dims find the neighbours of the full vector, in the same order."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.nested_accuracy import SAME_SCORE
from mrl_experiments.results import Measurement
from mrl_experiments.search.database import evenly_spaced, nearest_of_rows
from mrl_experiments.search.same_rows import told_same_rows

BLOCK = 64  # queries whose neighbours are in memory at a time
Rows = NDArray[np.int64]


def agreement(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    k: Sequence[int],
    ranked: int,
    max_queries: int,
) -> Iterator[Measurement]:
    """Yield how well each dim keeps the neighbourhoods of the full vectors, as they were before a reduction.

    Means over `queries` queries, at most `max_queries`, evenly spaced. Vectors are compared by cosine.

    overlap@k: of the k nearest at this dim, those that are among the k nearest by the full vector / k: recall
    of the true neighbours. As in ann-benchmarks, any that is as near as the k-th of these counts too.
    rank_correlation: Spearman's, between the cosines at this dim and of the full vector, over the `ranked`
    nearest by the full vector. It sees their order, which overlap does not; over the whole database it would
    be that of far rows, which no search returns. Neighbours all equally near count 0.

    Raises:
        UserError: For more neighbours than there are.
    """
    database = queries if database is None else database
    same = told_same_rows(queries, database)
    rows = evenly_spaced(len(queries), max_queries)
    full, base = queries.unreduced, database.unreduced
    reach = max(*k, min(ranked, len(database) - same))
    true = nearest_of_rows(full, base, rows, [full.width], reach)[full.width].positions
    true_cosines = _cosines(full, base, rows, true, full.width)
    found = nearest_of_rows(queries, database, rows, dims, max(k))
    for dim in tracked(dims, "comparing neighbours", len(dims)):
        cosines = _cosines(full, base, rows, found[dim].positions, full.width)
        for count in k:
            overlap = cosines[:, :count] > true_cosines[:, count - 1 : count] - SAME_SCORE
            yield Measurement(dim, f"overlap@{count}", float(overlap.mean()))
        at_dim = _cosines(queries, database, rows, true[:, :ranked], dim)
        correlation = spearman(at_dim, true_cosines[:, :ranked])
        yield Measurement(dim, "rank_correlation", float(correlation.mean()))
        yield Measurement(dim, "queries", float(len(rows)))


def spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of each two rows (Q, K), (Q,); 0 where one of them is constant.

    Example:
        >>> spearman(np.array([[1.0, 2, 3], [1, 1, 1]]), np.array([[2.0, 7, 9], [1, 2, 3]])).tolist()
        [1.0, 0.0]
    """
    ranks = [rankdata(part, axis=1) for part in (first, second)]
    ours, theirs = (part - part.mean(axis=1, keepdims=True) for part in ranks)
    scale = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum(axis=1))
    return np.divide((ours * theirs).sum(axis=1), scale, out=np.zeros(len(scale)), where=scale > 0)


def _cosines(
    queries: Embeddings, database: Embeddings, rows: Rows, found: Rows, dim: int
) -> NDArray[np.float32]:
    """Return the cosines of the queries `rows` (Q,) and their neighbours (Q, K) at one dim, (Q, K)."""
    cosines = np.empty(found.shape, np.float32)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        asked = unit_prefixes(queries.features[rows[part]], dim)
        near = unit_prefixes(database.features[found[part].ravel()], dim).reshape(len(asked), -1, dim)
        np.einsum("qkd,qd->qk", near, asked, out=cosines[part])
    return cosines
