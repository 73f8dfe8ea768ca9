"""Exact re-ranking of shortlists at a longer prefix, for a batch of queries at once."""

from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.nesting import prefix


class Candidates(NamedTuple):
    """Neighbours of each query: similarities (Q, K), and positions or ids (Q, K); -1 where there is none."""

    similarities: NDArray[np.float32]
    ids: NDArray[np.int64]


def similarities(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[Any],
    positions: NDArray[np.int64],
    dim: int,
) -> NDArray[np.float32]:
    """Return the cosine of each query with each of its candidates at prefix `dim`, (Q, K).

    Nothing is gathered: FAISS reads rows of length s at multiples of s, so with s a divisor of D it reads a
    prefix in place from the full-width vectors. From `dim` to s the query is zero, which changes no product.
    Only where norms are out of float32's reach are the candidates of one query after the other copied.

    Args:
        queries: (Q, D).
        vectors: (N, D) contiguous.
        norms: (N,) inverse norms at `dim`, see `inverse_norms`.
        positions: (Q, K) rows of `vectors`; -1 gives -inf.
    """
    if norms.dtype == np.float64:
        return _wide_similarities(unit_prefixes(queries, dim), prefix(vectors, dim), norms, positions)
    width = vectors.shape[1]
    step = next(size for size in range(dim, width + 1) if width % size == 0)
    padded = np.zeros((len(queries), step), np.float32)
    padded[:, :dim] = unit_prefixes(queries, dim)
    rows = np.ascontiguousarray(positions * (width // step))
    products = np.empty(positions.shape, np.float32)
    arrays = map(faiss.swig_ptr, (products, padded, vectors, rows))
    faiss.fvec_inner_products_by_idx(*arrays, step, *positions.shape)  # type: ignore[attr-defined]
    return np.multiply(products, norms[positions], out=products, where=positions >= 0)


def _wide_similarities(
    units: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[np.float64],
    positions: NDArray[np.int64],
) -> NDArray[np.float32]:
    found = np.empty(positions.shape, np.float32)
    for row, (unit, places) in enumerate(zip(units, positions, strict=True)):
        products = vectors[places].astype(np.float64) @ unit
        found[row] = np.where(places < 0, -np.inf, products * norms[places])
    return found


def best(candidates: Candidates, keep: int) -> Candidates:
    """Return the `keep` most similar candidates of each query, best first; equals are ordered by position."""
    scores, ids = candidates
    if keep < scores.shape[1]:
        chosen = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        scores, ids = np.take_along_axis(scores, chosen, 1), np.take_along_axis(ids, chosen, 1)
    order = np.lexsort((ids, -scores))
    return Candidates(np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1))
