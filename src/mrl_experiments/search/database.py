"""A labelled database and the neighbours of queries in it, with which most evaluations begin."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import SAME_SCORE
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import relevant_last
from mrl_experiments.search import neighbour_cache
from mrl_experiments.search.neighbours import Neighbours, nearest
from mrl_experiments.search.same_rows import same_rows, told_same_rows, without_self


def labelled(queries: Embeddings, database: Embeddings | None) -> Embeddings:
    """Return the database, and say in a line where the queries are rows of it.

    Raises:
        UserError: If there is none, it lacks the label of a query, or its width is another.
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
    queries: Embeddings, database: Embeddings, dims: Sequence[int], k: int, similarity: str = "cosine"
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours at each dim; of queries that are the database, others than themselves.

    Of equally near ones those with the query's label come last, so that a tie counts against the label. The
    others stand in the order of the database.

    Raises:
        UserError: If there are fewer than k.
    """
    same = same_rows(queries, database)
    if same and not 1 <= k < len(database):
        raise UserError(
            f"k={k} neighbours of each of {len(database)} vectors among the others",
            expected=f"a k from 1 to {len(database) - 1}" if len(database) > 1 else "at least two vectors",
        )
    # One more than asked for shows whether the last of them is tied with others.
    reach = max(k, min(k + same + 1, len(database)))
    found = neighbour_cache.neighbours(queries, database, dims, reach, similarity)
    given = k, same, similarity
    return {dim: _relevant_last(queries, database, dim, near, *given) for dim, near in found.items()}


def nearest_of_rows(
    queries: Embeddings,
    database: Embeddings,
    rows: NDArray[np.int64],
    dims: Sequence[int],
    k: int,
    similarity: str = "cosine",
) -> dict[int, Neighbours]:
    """Return the k nearest neighbours of the queries `rows` at each dim, (Q, k); no label is read.

    Of queries that are the database, others than themselves.

    Raises:
        UserError: If there are fewer than k.
    """
    same = same_rows(queries, database)
    if k + same > len(database):
        raise UserError(
            f"k={k} neighbours of {len(database) - same} {'other ' * same}vectors",
            expected="at least as many vectors",
            remedy="ask for fewer neighbours: evaluation.k=[...]",
        )
    found = nearest(queries.features[rows], database.features, dims, k + same, similarity=similarity)
    if not same:
        return found
    return {
        dim: Neighbours(*reversed(without_self(rows, near.positions, near.similarities)))
        for dim, near in found.items()
    }


def _relevant_last(
    queries: Embeddings,
    database: Embeddings,
    dim: int,
    near: Neighbours,
    k: int,
    same: bool,
    similarity: str,
) -> Neighbours:
    """Order neighbours (Q, K), and search anew where a tie goes on beyond those that were found."""
    near = _ordered(queries, database, near, np.arange(len(queries)), same)
    if near.positions.shape[1] > k:
        relevant = database.labels[near.positions[:, :k]] == queries.labels[:, None]
        as_near = near.similarities[:, :k] <= near.similarities[:, k:].max(axis=1)[:, None] + SAME_SCORE
        rows = np.flatnonzero((relevant & as_near).any(axis=1))
        if len(rows):
            asked, labels = queries.features[rows], (queries.labels[rows], database.labels)
            again = nearest(asked, database.features, [dim], k + same, labels, similarity)[dim]
            again = _ordered(queries, database, again, rows, same)
            near.similarities[rows, :k], near.positions[rows, :k] = again
    return Neighbours(near.similarities[:, :k], near.positions[:, :k])


def _ordered(
    queries: Embeddings, database: Embeddings, near: Neighbours, rows: NDArray[np.int64], same: bool
) -> Neighbours:
    """Return the neighbours of the queries `rows`, not themselves, those of their label last among equals."""
    similarities, positions = near
    if same:
        positions, similarities = without_self(rows, positions, similarities)
    order = relevant_last(similarities, database.labels[positions] == queries.labels[rows, None])
    return Neighbours(np.take_along_axis(similarities, order, 1), np.take_along_axis(positions, order, 1))
