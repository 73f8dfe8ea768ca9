"""Exact re-ranking of shortlists at a longer prefix, for a batch of queries at once.

Where numba is installed (the extra ffcv brings it), one compiled loop, `kernels.rerank`, compares, scales and
selects; FAISS and numpy otherwise, which takes some three times as long for a single query.
"""

from importlib.util import find_spec
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.similarity import compared
from mrl_experiments.nesting import prefix

COMPILED = find_spec("numba") is not None
__all__ = ["COMPILED", "Candidates", "best", "nearest", "similarities"]


def nearest(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[Any],
    found: Candidates,
    dim: int,
    keep: int,
    similarity: str = "cosine",
    patience: int = 0,
) -> Candidates:
    """Return the best `keep` of `found` (Q, K) at `dim`, best first; equals are ordered by position.

    Args:
        queries: (Q, D).
        vectors: (N, D) contiguous.
        norms: (N,) as `index.AdaptiveIndex.norms` has them.
        found: Positions of candidates; -1 where there is none.
        dim: What is compared.
        keep: How many are returned, at most K.
        similarity: What near means.
        patience: A query is done once so many candidates in turn have not been among its nearest; 0 for
            never, and without numba.
    """
    if COMPILED and norms.dtype == np.float32:
        from mrl_experiments.adaptive.retrieval.kernels import rerank

        asked = compared(queries, dim, similarity)
        return rerank(asked, vectors, norms, found.ids, keep, similarity == "l2", patience)
    scores = similarities(queries, vectors, norms, found.ids, dim, similarity)
    return best(Candidates(scores, found.ids), keep)


def similarities(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[Any],
    positions: NDArray[np.int64],
    dim: int,
    similarity: str = "cosine",
) -> NDArray[np.float32]:
    """Return how near each query is to each of its candidates at prefix `dim`, (Q, K).

    Nothing is gathered: FAISS reads rows of length s at multiples of s, so with s a divisor of D it reads a
    prefix in place from the full-width vectors. From `dim` to s the query is zero, which changes no product.
    Only where norms are out of float32's reach are the candidates of one query after the other copied, and
    those that are compared by distances at less than full width.

    Args:
        queries: (Q, D).
        vectors: (N, D) contiguous.
        norms: (N,) inverse norms at `dim`, see `inverse_norms`; not read but for cosines.
        positions: (Q, K) rows of `vectors`; -1 gives -inf.
        dim: What is compared.
        similarity: What near means.
    """
    asked = compared(queries, dim, similarity)
    if norms.dtype == np.float64:
        return _wide_similarities(asked, prefix(vectors, dim), norms, positions)
    width = vectors.shape[1]
    if similarity == "l2" and dim < width:
        return _distances(asked, prefix(vectors, dim), positions)
    step = next(size for size in range(dim, width + 1) if width % size == 0)
    padded = np.zeros((len(queries), step), np.float32)
    padded[:, :dim] = asked
    rows = np.ascontiguousarray(positions * (width // step))
    products = np.empty(positions.shape, np.float32)
    arrays = map(faiss.swig_ptr, (products, padded, vectors, rows))
    if similarity == "l2":
        faiss.fvec_L2sqr_by_idx(*arrays, step, *positions.shape)  # type: ignore[attr-defined]
        return np.where(positions < 0, np.float32(-np.inf), -products)
    faiss.fvec_inner_products_by_idx(*arrays, step, *positions.shape)  # type: ignore[attr-defined]
    if similarity == "inner_product":
        return np.where(positions < 0, np.float32(-np.inf), products)
    return np.multiply(products, norms[positions], out=products, where=positions >= 0)


def _distances(
    asked: NDArray[np.float32], vectors: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    found = np.empty(positions.shape, np.float32)
    for row, (query, places) in enumerate(zip(asked, positions, strict=True)):
        found[row] = np.where(places < 0, -np.inf, -np.square(vectors[places] - query).sum(axis=1))
    return found


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
