"""What most evaluations begin with: a labelled database, and the neighbours in it."""

from collections.abc import Sequence

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations import kept_neighbours
from mrl_experiments.evaluations.neighbours import Neighbours
from mrl_experiments.evaluations.same_rows import same_rows, told_same_rows, without_own


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

    Raises UserError when there are fewer than k.
    """
    same = same_rows(queries, database)
    if same and not 1 <= k < len(database):
        raise UserError(
            f"k={k} neighbours of each of {len(database)} vectors among the others",
            expected=f"a k from 1 to {len(database) - 1}" if len(database) > 1 else "at least two vectors",
        )
    found = kept_neighbours.neighbours(queries, database, dims, k + same)
    if not same:
        return found
    own = np.arange(len(queries))
    return {
        dim: Neighbours(*reversed(without_own(own, positions, similarities)))
        for dim, (similarities, positions) in found.items()
    }
