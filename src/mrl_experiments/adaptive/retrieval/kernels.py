"""The compiled re-rank: one loop from candidates to the nearest, without arrays in between.

It needs numba, and its first call compiles for some seconds unless numba has kept an earlier result. The next
candidate is fetched from memory while one is compared: candidates lie far apart.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import faiss
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates

Result = TypeVar("Result")
# Of loops that are compiled: sums in any order, no lock of Python, kept for the next process. They do by hand
# what sum, max, partition and copies of slices would, with which numba takes twice as long to compile.
FAST: Any = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "cache": True, "error_model": "numpy"}
WORTH_SHARING = 64  # queries, fewer of which one thread answers
LINE, AHEAD = 64, 2  # bytes that memory is fetched by; how many candidates before one is compared


def rerank(
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32] | NDArray[np.float16],
    norms: NDArray[np.float32],
    positions: NDArray[np.int64],
    keep: int,
    distances: bool,
    patience: int = 0,
) -> Candidates:
    """Return the `keep` nearest candidates of each query, best first; equals are ordered by position.

    Args:
        asked: (Q, dim) queries as they are compared.
        vectors: (N, D) float32 or float16, whose first dim features are compared.
        norms: (N,) what products are multiplied by; empty for 1.
        positions: (Q, K) rows of `vectors`; what is below 0 has similarity -inf.
        keep: At most K.
        distances: Compare by squared distances, negated, in place of products.
        patience: A query is done once so many candidates in turn have not been among its nearest; 0 for
            never.
    """
    keep = min(keep, positions.shape[1])
    stored = vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors  # numba knows bits only
    found = Candidates(np.empty((len(asked), keep), np.float32), np.empty((len(asked), keep), np.int64))
    given = (asked, fixed(stored), norms, positions, distances, patience, *found)
    by_threads(len(asked), partial(_select, *given))
    return found


def fixed(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that is only read, as of a mapped file: a loop is compiled for each kind of array."""
    view = array.view()
    view.flags.writeable = False
    return view


def by_threads(queries: int, answer: Callable[[int, int], Result]) -> list[Result]:
    """Return what `answer` of a compiled loop gives for ranges (first, last) of queries, one a thread."""
    threads = queries // WORTH_SHARING
    if threads < 2 or (threads := min(threads, faiss.omp_get_max_threads())) < 2:
        return [answer(0, queries)]
    cuts = np.linspace(0, queries, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda part: answer(*part), itertools.pairwise(cuts)))


@intrinsic
def fetch(_, address):  # type: ignore[no-untyped-def]
    """Have memory at an address brought near the processor."""

    def code(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        place = builder.inttoptr(arguments[0], byte)
        builder.call(instruction, [place, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(types.intp), code


@intrinsic
def _number(_, stored):  # type: ignore[no-untyped-def]
    """Return a stored number as it is, or the float32 that the 16 bits of a half-precision one stand for."""

    def half(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    if stored == types.uint16:
        return types.float32(stored), half
    return stored(stored), lambda context, builder, _, arguments: arguments[0]


@numba.njit(**FAST)
def _select(  # type: ignore[no-untyped-def] # noqa: PLR0912
    asked, vectors, norms, positions, distances, patience, scores, ids, first, last
):
    keep, dim, count = scores.shape[1], asked.shape[1], positions.shape[1]
    start, stride = vectors.ctypes.data, vectors.strides[0]
    for row in range(first, last):
        best, places, query = scores[row], ids[row], asked[row]
        held = idle = 0
        for number in range(count):
            place = positions[row, number]
            if number + AHEAD < count and positions[row, number + AHEAD] >= 0:
                address = start + positions[row, number + AHEAD] * stride
                for line in range(0, vectors.itemsize * dim, LINE):
                    fetch(address + line)
            score = np.float32(-np.inf)
            if place >= 0:
                vector = vectors[place]
                score = np.float32(0)
                if distances:
                    for column in range(dim):
                        apart = query[column] - _number(vector[column])
                        score -= apart * apart
                else:
                    for column in range(dim):
                        score += query[column] * _number(vector[column])
                    if len(norms):
                        score *= norms[place]
            if held == keep and (
                score < best[keep - 1] or (score == best[keep - 1] and place >= places[keep - 1])
            ):
                idle += 1
                if idle == patience:
                    break
                continue
            idle = 0
            at = min(held, keep - 1)
            held = min(held + 1, keep)
            while at > 0 and (score > best[at - 1] or (score == best[at - 1] and place < places[at - 1])):
                best[at], places[at] = best[at - 1], places[at - 1]
                at -= 1
            best[at], places[at] = score, place
