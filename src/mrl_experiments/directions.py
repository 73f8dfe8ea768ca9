"""Norms and unit-norm prefixes of any finite vectors.

The square of a float32 number overflows from 1e19 on and is lost below 1e-23. Vectors of such sizes are
therefore computed with in float64, which holds the squares and products of all float32 numbers.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.nesting import prefix

BLOCK = 65536  # vectors at a time
SAME_SCORE = 1e-6  # scores that differ by no more are equal: some ten roundings of float32
# Squared norms for which float32 serves: products of two such vectors stay clear of its limits as well.
LOWEST, HIGHEST = 2.0**-100, 2.0**100


def setting_of(similarity: str) -> dict[str, str]:
    """Return what rows say of the similarity: nothing of cosine, as all did before there were others."""
    return {} if similarity == "cosine" else {"similarity": similarity}


def dtype_for(dims: Sequence[int], *arrays: NDArray[Any]) -> type[np.floating[Any]]:
    """Return the type in which squares and products of the prefixes of some vectors can be computed.

    Args:
        dims: The lengths of the prefixes, ascending.
        arrays: Vectors (N, D) of float32 or float64; each may be a memory map.

    Returns:
        float32, or float64 where a prefix other than one of zeros has a norm beyond 1e15 or below 1e-15.
    """
    starts = ((vectors, start) for vectors in arrays for start in range(0, len(vectors), BLOCK))
    blocks = (vectors[start : start + BLOCK] for vectors, start in starts)
    return np.float32 if all(_all_serve(block, dims) for block in blocks) else np.float64


def _all_serve(vectors: NDArray[Any], dims: Sequence[int]) -> bool:
    """Return whether float32 serves for all prefixes; the shortest and the longest mostly tell."""
    ends = [squares for squares, _ in _squares(vectors, sorted({dims[0], dims[-1]}))] if dims else []
    if all((squares >= LOWEST).all() and (squares <= HIGHEST).all() for squares in ends):
        return True
    return all(serves for _, serves in _squares(vectors, dims))


def inverse_norms(vectors: NDArray[Any], dims: Sequence[int]) -> dict[int, NDArray[Any]]:
    """Return one over each of `prefix_norms`, {dim: (N,)}; 0 for a prefix of zeros."""
    return {
        dim: np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        for dim, norms in prefix_norms(vectors, dims).items()
    }


def prefix_norms(vectors: NDArray[Any], dims: Sequence[int]) -> dict[int, NDArray[Any]]:
    """Return the Euclidean norm of each prefix of vectors (N, D).

    Args:
        vectors: float32 or float64.
        dims: The lengths of the prefixes, ascending.

    Returns:
        {dim: (N,)} of the vectors' type, or float64 where a norm is out of its reach (see `dtype_for`).

    Example:
        >>> prefix_norms(np.array([[3.0, 4.0, 12.0]]), [1, 2, 3])
        {1: array([3.]), 2: array([5.]), 3: array([13.])}
    """
    starts = range(0, len(vectors), BLOCK)
    blocks = [_norms(vectors[start : start + BLOCK], dims) for start in starts]
    empty = np.empty(0, vectors.dtype)
    norms = [np.concatenate([empty, *parts]) for parts in zip(*blocks, strict=True)]
    return dict(zip(dims, norms or [empty for _ in dims], strict=True))


def _norms(vectors: NDArray[Any], dims: Sequence[int]) -> list[NDArray[Any]]:
    return [
        np.sqrt(squares) if serves else np.linalg.norm(prefix(vectors, dim).astype(np.float64), axis=1)
        for dim, (squares, serves) in zip(dims, _squares(vectors, dims), strict=True)
    ]


def _squares(vectors: NDArray[Any], dims: Sequence[int]) -> Iterator[tuple[NDArray[Any], bool]]:
    """Yield the squared norm of each prefix, and whether float32 serves for all but those of zeros.

    The square of a prefix is that of the shorter one plus that of the features between.
    """
    squares = np.zeros(len(vectors), vectors.dtype)
    for low, high in itertools.pairwise((0, *dims)):
        part = vectors[:, low:high]
        with np.errstate(over="ignore", under="ignore"):
            squares = squares + np.einsum("nd,nd->n", part, part)
        outside = ~((squares >= LOWEST) & (squares <= HIGHEST))
        yield squares, not outside.any() or not prefix(vectors[outside], high).any()


def unit_prefixes(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return the first `dim` features of vectors (N, D), each row of norm 1; zeros stay zeros.

    Returns:
        (N, dim) float32, a new contiguous array.
    """
    units = np.empty((len(vectors), dim), np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        np.multiply(
            prefix(block, dim),
            inverse_norms(block, [dim])[dim][:, None],
            out=units[start : start + BLOCK],
            casting="same_kind",
        )
    return units
