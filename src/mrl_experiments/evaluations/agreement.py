"""Agreement without labels: how far few dims find the neighbours of the full vector, in the same order."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mrl_experiments.directions import SAME_SCORE, setting_of
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.results import Measurement
from mrl_experiments.search.database import nearest_of_rows
from mrl_experiments.search.neighbours import similarities_of
from mrl_experiments.search.same_rows import evenly_spaced, told_same_rows


def agreement(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    k: Sequence[int],
    ranked: int,
    max_queries: int,
    similarity: str = "cosine",
) -> Iterator[Measurement]:
    """Yield how well each dim keeps the neighbourhoods of the full vectors, as they were before a reduction.

    Means over `queries` queries, at most `max_queries`, evenly spaced.

    overlap@k: of the k nearest at this dim, those that are among the k nearest by the full vector / k: recall
    of the true neighbours. As in ann-benchmarks, any that is as near as the k-th of these counts too.
    rank_correlation: Spearman's, between the similarities at this dim and of the full vector, over the
    `ranked` nearest by the full vector. It sees their order, which overlap does not; over the whole database
    it would be that of far rows, which no search returns. Neighbours all equally near count 0.

    Raises:
        UserError: For more neighbours than there are.
    """
    database = queries if database is None else database
    same = told_same_rows(queries, database)
    rows = evenly_spaced(len(queries), max_queries)
    full, base = queries.unreduced, database.unreduced
    reach = max(*k, min(ranked, len(database) - same))
    of_full = partial(
        similarities_of, full.features[rows], base.features, dim=full.width, similarity=similarity
    )
    true = nearest_of_rows(full, base, rows, [full.width], reach, similarity)[full.width].positions
    true_similarities = of_full(true)
    found = nearest_of_rows(queries, database, rows, dims, max(k), similarity)
    setting = setting_of(similarity)
    for dim in tracked(dims, "comparing neighbours", len(dims)):
        whole = of_full(found[dim].positions)
        for count in k:
            overlap = whole[:, :count] > true_similarities[:, count - 1 : count] - SAME_SCORE
            yield Measurement(dim, f"overlap@{count}", float(overlap.mean()), setting)
        at_dim = similarities_of(queries.features[rows], database.features, true[:, :ranked], dim, similarity)
        correlation = spearman(at_dim, true_similarities[:, :ranked])
        yield Measurement(dim, "rank_correlation", float(correlation.mean()), setting)
        yield Measurement(dim, "queries", float(len(rows)), setting)


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
