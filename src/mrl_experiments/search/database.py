"""What most evaluations begin with: a labelled database, and the neighbours in it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import BLOCK, unit_prefixes
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import own_last
from mrl_experiments.search import neighbour_cache
from mrl_experiments.search.neighbours import Neighbours
from mrl_experiments.search.same_rows import same_rows, told_same_rows, without_own


def check_counts(option: str, counts: Sequence[int]) -> None:
    """Raise UserError unless a list such as evaluation.k holds whole numbers from 1 up, and at least one."""
    if not counts or not all(isinstance(count, int) and count >= 1 for count in counts):
        raise UserError(f"{option}={list(counts)}", expected="at least one whole number, each from 1 up")


def labelled(queries: Embeddings, database: Embeddings | None) -> Embeddings:
    """Return the database, and say in a line where the queries are rows of it.

    Raises UserError when there is none, it lacks the label of a query, or its width is another.
    """
    if database is None:
        raise UserError(
            "there is no database for these queries",
            expected="embeddings of a split named train or database",
            remedy="embed that split too, or name another one: database=<split> or <dataset>/<split>",
        )
    unknown = ~np.isin(queries.labels, database.labels)
    if unknown.any():
        raise UserError(
            f"{unknown.sum()} of {len(queries)} queries have a label that is missing from the database, "
            f"such as {queries.labels[unknown][0]}",
            expected="a database with the classes of all queries",
            remedy="name the one that belongs to them: database=<split> or <dataset>/<split>",
        )
    told_same_rows(queries, database)
    return database


def neighbours(
    queries: Embeddings, database: Embeddings, dims: Sequence[int], k: int
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each size; of queries that are the database, others than themselves.

    Of equally near ones those with the query's label come last, so that a tie counts against the label. The
    others stand in the order of the database.
    Raises UserError when there are fewer than k.
    """
    same = same_rows(queries, database)
    if same and not 1 <= k < len(database):
        raise UserError(
            f"k={k} neighbours of each of {len(database)} vectors among the others",
            expected=f"a k from 1 to {len(database) - 1}" if len(database) > 1 else "at least two vectors",
        )
    # One more than asked for shows whether the last of them is tied with others.
    reach = max(k, min(k + same + 1, len(database)))
    found = neighbour_cache.neighbours(queries, database, dims, reach)
    return {dim: _own_last(queries, database, dim, near, k, same) for dim, near in found.items()}


def _own_last(
    queries: Embeddings, database: Embeddings, dim: int, near: Neighbours, k: int, same: bool
) -> Neighbours:
    similarities, positions = near
    if same:
        positions, similarities = without_own(np.arange(len(queries)), positions, similarities)
    tied = np.flatnonzero((np.diff(similarities, axis=1) == 0).any(axis=1))
    own = database.labels[positions[tied]] == queries.labels[tied, None]
    order = own_last(similarities[tied], own)
    positions[tied] = np.take_along_axis(positions[tied], order, axis=1)
    if similarities.shape[1] > k:
        last, beyond = similarities[tied, k - 1], similarities[tied, k]
        cut = (last == beyond) & (own & (similarities[tied] == last[:, None])).any(axis=1)
        for row in tied[cut]:  # the tie goes on in what was not found
            positions[row, :k] = _all_ties(queries, database, dim, row, k, same)
    return Neighbours(similarities[:, :k], positions[:, :k])


def _all_ties(
    queries: Embeddings, database: Embeddings, dim: int, row: int, k: int, same: bool
) -> NDArray[np.int64]:
    """Return the k nearest of one query, compared with the whole database, those with its label last."""
    query = unit_prefixes(queries.features[row : row + 1], dim)[0]
    # Unlike a product of matrices, this is the same for the same vector wherever it stands.
    cosines = np.concatenate(
        [
            np.einsum("nd,d->n", unit_prefixes(database.features[start : start + BLOCK], dim), query)
            for start in range(0, len(database), BLOCK)
        ]
    )
    if same:
        cosines[row] = -np.inf
    return own_last(cosines, database.labels == queries.labels[row])[:k]
