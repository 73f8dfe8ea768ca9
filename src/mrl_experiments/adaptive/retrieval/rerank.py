"""Exact re-ranking of shortlists at a longer prefix, for a batch of queries at once."""

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.nesting import prefix

BLOCK = 65536  # database rows normalised at a time


class Candidates(NamedTuple):
    """Neighbours of each query: similarities (Q, K), and positions or ids (Q, K); -1 where there is none."""

    similarities: NDArray[np.float32]
    ids: NDArray[np.int64]


def unit_prefix(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return the first `dim` features scaled to unit norm, (N, D) -> (N, dim), as a new array."""
    short = prefix(vectors, dim)
    return np.ascontiguousarray(short * inverse_norms(vectors, dim)[:, None])


def inverse_norms(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return 1 / ||v_{1:dim}||, (N, D) -> (N,); an all-zero prefix has similarity 0 with everything."""
    norms = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = prefix(vectors[start : start + BLOCK], dim)
        norms[start : start + BLOCK] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return np.reciprocal(np.maximum(norms, np.finfo(np.float32).tiny))


def similarities(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[np.float32],
    positions: NDArray[np.int64],
    dim: int,
) -> NDArray[np.float32]:
    """Return the cosine of each query with each of its candidates at prefix `dim`, (Q, K).

    queries: (Q, D). vectors: (N, D) contiguous. norms: (N,) inverse norms at `dim`.
    positions: (Q, K) rows of `vectors`; -1 gives -inf.

    Nothing is gathered: FAISS reads rows of length s at multiples of s, so with s a divisor of D it reads a
    prefix in place from the full-width vectors. From `dim` to s the query is zero, which changes no product.
    """
    width = vectors.shape[1]
    step = next(size for size in range(dim, width + 1) if width % size == 0)
    padded = np.zeros((len(queries), step), np.float32)
    padded[:, :dim] = unit_prefix(queries, dim)
    rows = np.ascontiguousarray(positions * (width // step))
    products = np.empty(positions.shape, np.float32)
    arrays = map(faiss.swig_ptr, (products, padded, vectors, rows))
    faiss.fvec_inner_products_by_idx(*arrays, step, *positions.shape)  # type: ignore[attr-defined]
    return products * norms[positions]


def best(candidates: Candidates, keep: int) -> Candidates:
    """Return the `keep` most similar candidates of each query, best first; equals are ordered by position."""
    scores, ids = candidates
    if keep < scores.shape[1]:
        chosen = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        scores, ids = np.take_along_axis(scores, chosen, 1), np.take_along_axis(ids, chosen, 1)
    order = np.lexsort((ids, -scores))
    return Candidates(np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1))
