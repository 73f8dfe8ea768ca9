"""What near means: by cosine, inner product or Euclidean distance, of prefixes; larger is always nearer."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.directions import BLOCK, HIGHEST, LOWEST, dtype_for, inverse_norms, unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.names import SIMILARITIES
from mrl_experiments.nesting import prefix

FEW = 64  # queries


def check_similarity(similarity: str) -> str:
    """Return the name of a similarity.

    Raises:
        UserError: If it is none.
    """
    if similarity not in SIMILARITIES:
        raise UserError(f"similarity={similarity!r}", expected=f"one of {', '.join(SIMILARITIES)}")
    return similarity


def metric(similarity: str) -> int:
    """Return FAISS's number of what compares vectors as `compared` returns them."""
    return int(faiss.METRIC_L2 if similarity == "l2" else faiss.METRIC_INNER_PRODUCT)


def compared(
    vectors: NDArray[np.float32], dim: int, similarity: str, rest: bool = False
) -> NDArray[np.float32]:
    """Return the prefixes (N, dim) of vectors (N, D) that are compared, contiguous: for cosines of norm 1.

    With `rest`, (N, dim + 1): prefixes of the whole directions, and the norm of what each leaves out, so that
    a product is the largest that the cosine of whole vectors can be.
    """
    if rest:
        width = vectors.shape[1]
        part = np.zeros((len(vectors), dim + 1), np.float32)
        part[:, :dim] = prefix(vectors, dim) * inverse_norms(vectors, [width])[width][:, None]
        part[:, dim] = np.sqrt(np.maximum(0, 1 - np.einsum("nd,nd->n", part, part)))
        return part
    if similarity == "cosine":
        if len(vectors) <= FEW:  # without the steps that many need
            part = prefix(vectors, dim)
            with np.errstate(over="ignore", under="ignore"):
                squares = np.einsum("nd,nd->n", part, part)
            if len(part) and squares.min() >= LOWEST and squares.max() <= HIGHEST:
                return np.ascontiguousarray(part * (1 / np.sqrt(squares))[:, None], np.float32)
        return unit_prefixes(vectors, dim)
    return np.ascontiguousarray(prefix(vectors, dim), np.float32)


def check_range(vectors: NDArray[np.float32], dims: Sequence[int], similarity: str, name: str) -> None:
    """Refuse vectors whose products are out of float32's range; cosines are computed of any.

    Raises:
        UserError: If there are some.
    """
    if similarity != "cosine" and dtype_for(dims, vectors) is not np.float32:
        raise UserError(
            f"{name} with norms beyond 1e15 or below 1e-15, by similarity={similarity}",
            expected="vectors whose products float32 can hold",
            remedy="scale all of them alike, or take similarity=cosine",
        )


def exact_neighbours(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    similarity: str = "cosine",
    keep: NDArray[np.bool_] | None = None,
    block: int = BLOCK,
) -> Candidates:
    """Return the k nearest of vectors (N, D), which may be a memory map, to each query, a block at a time.

    Args:
        queries: (Q, D).
        vectors: (N, D).
        k: How many; where there are fewer, positions are -1 and similarities -inf.
        similarity: What near means.
        keep: (N,) True where a vector takes part.
        block: How many vectors are in memory at a time.
    """
    width, sign = vectors.shape[1], -1.0 if similarity == "l2" else 1.0
    asked = compared(queries, width, similarity)
    best = Candidates(
        np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    )
    for start in range(0, len(vectors), block):
        rows = np.arange(start, min(start + block, len(vectors)))
        if keep is not None:
            rows = np.flatnonzero(keep[start : start + block]) + start
        if not len(rows):
            continue
        whole = len(rows) == min(block, len(vectors) - start)
        part: NDArray[Any] = vectors[start : start + block] if whole else vectors[rows]
        found, places = faiss.knn(
            asked, compared(part, width, similarity), min(k, len(rows)), metric=metric(similarity)
        )
        best = _merged(best, Candidates(sign * found, rows[places]))
    return best


def _merged(first: Candidates, second: Candidates) -> Candidates:
    similarities = np.concatenate([first.similarities, second.similarities], axis=1)
    ids = np.concatenate([first.ids, second.ids], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, : first.ids.shape[1]]
    return Candidates(np.take_along_axis(similarities, order, axis=1), np.take_along_axis(ids, order, axis=1))
