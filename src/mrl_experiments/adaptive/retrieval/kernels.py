"""The compiled re-rank: one loop from candidates to the nearest, without arrays in between.

It needs numba, and its first call compiles for some seconds unless numba has kept an earlier result.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import faiss
import numba
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates

WORTH_SHARING = 64  # queries, fewer of which one thread answers


def rerank(
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32],
    norms: NDArray[np.float32],
    positions: NDArray[np.int64],
    keep: int,
    distances: bool,
) -> Candidates:
    """Return the `keep` nearest candidates of each query, best first; equals are ordered by position.

    Args:
        asked: (Q, dim) queries as they are compared.
        vectors: (N, D), whose first dim features are compared.
        norms: (N,) what products are multiplied by; empty for 1.
        positions: (Q, K) rows of `vectors`; what is below 0 has similarity -inf.
        keep: At most K.
        distances: Compare by squared distances, negated, in place of products.
    """
    keep = min(keep, positions.shape[1])
    found = Candidates(np.empty((len(asked), keep), np.float32), np.empty((len(asked), keep), np.int64))
    given = (asked, vectors, norms, positions, distances, *found)
    threads = min(faiss.omp_get_max_threads(), len(asked) // WORTH_SHARING)
    if threads < 2:
        _select(*given, 0, len(asked))
        return found
    cuts = np.linspace(0, len(asked), threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: _select(*given, *part), itertools.pairwise(cuts)))
    return found


@numba.njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _select(  # type: ignore[no-untyped-def]
    asked, vectors, norms, positions, distances, scores, ids, first, last
):
    keep, dim = scores.shape[1], asked.shape[1]
    for row in range(first, last):
        best, places, query = scores[row], ids[row], asked[row]
        held = 0
        for place in positions[row]:
            score = np.float32(-np.inf)
            if place >= 0:
                vector = vectors[place]
                score = np.float32(0)
                if distances:
                    for column in range(dim):
                        apart = query[column] - vector[column]
                        score -= apart * apart
                else:
                    for column in range(dim):
                        score += query[column] * vector[column]
                    if len(norms):
                        score *= norms[place]
            if held == keep and (
                score < best[keep - 1] or (score == best[keep - 1] and place >= places[keep - 1])
            ):
                continue
            at = held if held < keep else keep - 1
            held = min(held + 1, keep)
            while at > 0 and (score > best[at - 1] or (score == best[at - 1] and place < places[at - 1])):
                best[at], places[at] = best[at - 1], places[at - 1]
                at -= 1
            best[at], places[at] = score, place
