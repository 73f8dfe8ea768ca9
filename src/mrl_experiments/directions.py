"""Norms and unit-norm prefixes of any finite vectors.

The square of a float32 number overflows from 1e19 on and is lost below 1e-23. Vectors of such sizes are
therefore computed with in float64, which holds the squares and products of all float32 numbers.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.nesting import prefix

BLOCK = 65536  # vectors at a time
# Squared norms for which float32 serves: products of two such vectors stay clear of its limits as well.
LOWEST, HIGHEST = 2.0**-100, 2.0**100


def dtype_for(dims: Sequence[int], *arrays: NDArray[Any]) -> type[np.floating[Any]]:
    """Return the type in which squares and products of the prefixes of some vectors can be computed.

    Args:
        dims: the sizes of the prefixes, ascending.
        arrays: vectors (N, D) of float32 or float64; each may be a memory map.

    Returns:
        float32, or float64 where a prefix other than one of zeros has a norm beyond 1e15 or below 1e-15.
    """
    for vectors in arrays:
        for start in range(0, len(vectors), BLOCK):
            if not _serves_float32(vectors[start : start + BLOCK], dims):
                return np.float64
    return np.float32


def _serves_float32(vectors: NDArray[Any], dims: Sequence[int]) -> bool:
    squares = np.zeros(len(vectors), vectors.dtype)
    with np.errstate(over="ignore", under="ignore"):
        for low, high in itertools.pairwise((0, *dims)):
            part = vectors[:, low:high]
            squares += np.einsum("nd,nd->n", part, part)
            if not _in_range(squares, vectors, high):
                return False
    return True


def _in_range(squares: NDArray[Any], vectors: NDArray[Any], dim: int) -> bool:
    """Tell whether squared norms (N,) of prefixes are fit for float32, or are those of zeros."""
    outside = ~((squares >= LOWEST) & (squares <= HIGHEST))
    return not outside.any() or not prefix(vectors[outside], dim).any()


def inverse_norms(vectors: NDArray[np.float32], dim: int) -> NDArray[Any]:
    """Return one over the norm of each prefix of vectors (N, D), or 0 for a prefix of zeros.

    Returns:
        (N,) float32, or float64 where a norm is out of float32's reach (see `dtype_for`).
    """
    starts = range(0, len(vectors), BLOCK)
    squares = [_squares(vectors[start : start + BLOCK], dim) for start in starts]
    norms = np.sqrt(np.concatenate(squares)) if squares else np.empty(0, np.float32)
    return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


def _squares(vectors: NDArray[np.float32], dim: int) -> NDArray[Any]:
    short = prefix(vectors, dim)
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("nd,nd->n", short, short)
    if not _in_range(squares, vectors, dim):
        wide = short.astype(np.float64)
        squares = np.einsum("nd,nd->n", wide, wide)
    return squares


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
            inverse_norms(block, dim)[:, None],
            out=units[start : start + BLOCK],
            casting="same_kind",
        )
    return units
