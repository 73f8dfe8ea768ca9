"""Queries that are themselves rows of the database, and must not be compared with themselves."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.embeddings import FEATURES, Embeddings, shared_width
from mrl_experiments.errors import UserError
from mrl_experiments.notices import print_once

BLOCK, ROWS = 65536, 4096  # rows at a time
ROUNDING = 1e-3  # of the usual squared distance, by which copies may differ: bfloat16 does by 1e-5
SAMPLE = 1000  # rows whose digest tells whether two sets of vectors are the same
BEGINNING = 8  # features that tell most vectors apart
Rows = NDArray[np.int64]


def same_rows(queries: Embeddings, database: Embeddings) -> bool:
    """Return True if both are the same vectors in the same order: one split, or two files of one content.

    One of the files may hold them with fewer digits, or divided by their norms.
    """
    if queries is database or (queries.folder is not None and queries.folder == database.folder):
        return True
    if queries.features.shape != database.features.shape:
        return False
    digests = [part.meta.get("checksum", {}).get(FEATURES) for part in (queries, database)]
    if all(digests) and digests[0] == digests[1]:
        return True
    return _are_rounded_copies(queries.features, database.features)


def _are_rounded_copies(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Return True if all rows (N, D) point where those of the other do: far nearer than two rows do."""
    count, width = first.shape
    if count < 2 or width < 2:  # one row has no other, and one feature no direction
        return np.array_equal(first, second)
    for start in range(0, count, ROWS):
        rows = np.arange(start, min(start + ROWS, count))
        ours, theirs = unit_prefixes(first[rows], width), unit_prefixes(second[rows], width)
        others = unit_prefixes(second[(rows + 1) % count], width)
        apart, usual = (np.square(ours - part).sum(axis=1) for part in (theirs, others))
        if apart.max() > ROUNDING * usual.mean():
            return False
        if not usual.any() and not np.array_equal(first[rows], second[rows]):  # all point one way
            return False
    return True


def told_same_rows(queries: Embeddings, database: Embeddings) -> bool:
    """Return `same_rows`, and say in lines what follows for the results, and of copies among the rows.

    Raises:
        UserError: If the widths differ or either is empty.
    """
    shared_width([queries, database])
    if not (len(queries) and len(database)):
        raise UserError(
            f"{len(queries)} queries and a database of {len(database)}",
            expected="at least one of each",
        )
    same = same_rows(queries, database)
    some = f"of {len(queries):,} queries ({queries.meta.get('split', 'in memory')})"
    if same:
        print_once(f"all {some} are the database itself: none is compared with itself")
        counts = np.unique(queries.labels, return_counts=True)[1] if queries.has_labels else np.empty(0)
        if alone := int((counts == 1).sum()):
            print_once(f"{alone:,} {some} are alone in their class: nothing of it is left to find")
    if copies := count_copies(queries.features, database.features, same):
        print_once(
            f"{copies:,} {some} have an exact copy {'among the others' if same else 'in the database'}"
        )
    return same


def refuse_same_rows(queries: Embeddings, database: Embeddings | None, expected: str) -> None:
    """Raise UserError where an evaluation needs a database other than the queries; `expected` says which."""
    if database is not None and same_rows(queries, database):
        raise UserError(
            f"{queries.meta.get('split', 'the queries')}: queries and database are the same rows",
            expected=expected,
            remedy="name another split or file: database=...",
        )


def count_copies(queries: NDArray[np.float32], database: NDArray[np.float32], same: bool) -> int:
    """Return how many queries (Q, D) occur in the database (N, D), feature for feature.

    Args:
        same: Both are the same rows, and a copy is another row. Only rows whose beginnings agree are read
            whole.
    """
    asked, searched = np.arange(len(queries)), np.arange(len(database))
    for width in (BEGINNING, queries.shape[1]):
        keys = row_keys(queries, asked, width)
        if same:
            _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
            asked = asked[counts[group] > 1]
        else:
            others = row_keys(database, searched, width)
            asked, searched = asked[np.isin(keys, others)], searched[np.isin(others, keys)]
    return len(asked)


def row_keys(
    vectors: NDArray[np.float32], rows: Rows | None = None, width: int | None = None
) -> NDArray[np.uint64]:
    """Return a 64-bit hash of rows of (N, D), all or some, up to a width.

    That two share one by chance is one in 2^64.
    """
    width = min(width or vectors.shape[1], vectors.shape[1])
    rows = np.arange(len(vectors)) if rows is None else rows
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**64, width, np.uint64) | np.uint64(1)
    keys = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), BLOCK):
        block = vectors[rows[start : start + BLOCK], :width]
        bits = np.ascontiguousarray(block, np.float32).view(np.uint32)
        keys[start : start + BLOCK] = bits.astype(np.uint64) @ factors
    return keys


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return `count` rows, or `most` of them.

    Example:
        >>> evenly_spaced(9, 3).tolist()
        [0, 4, 8]
    """
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def sample_digest(vectors: NDArray[Any]) -> str:
    """Return a digest of the shape and of 1,000 rows, by which stored vectors are known again.

    Example:
        >>> sample_digest(np.ones((3, 2))) == sample_digest(np.ones((3, 2), np.float32))
        True
    """
    rows = np.asarray(vectors[evenly_spaced(len(vectors), SAMPLE)], "<f4")
    return hashlib.blake2b(repr(vectors.shape).encode() + rows.tobytes(), digest_size=12).hexdigest()


def without_self(self_rows: Rows, found: Rows, *others: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return `found` and what goes with it without each query's own row.

    Args:
        self_rows: (Q,) the row of the database that each query is.
        found: (Q, K + 1) neighbours, as rows of the database.
        others: Arrays of the same shape.

    Returns:
        (Q, K) of each; a query that is not among its own neighbours loses the last of them.
    """
    drop = found == self_rows[:, None]
    drop[~drop.any(axis=1), -1] = True
    return tuple(part[~drop].reshape(len(self_rows), -1) for part in (found, *others))
