"""Lists of one byte a feature ("IVF4096,SQ8"), searched by a compiled loop from the query to its neighbours.

FAISS trains and keeps the lists; here lie copies of their codes one behind the other, in large pages of
memory, and whole vectors in a byte a feature, a quarter of their size. A query's weights are whole numbers of
16 bits, so that codes are compared by products of whole numbers; what comes next is fetched from memory
meanwhile. Of a shortlist, bytes of all features leave only those to compare whole that may be among the
nearest: nearer than the last of these by no more than eight deviations of what rounding to bytes changes. It
needs numba.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import faiss
import numba
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.kernels import FAST, LINE, by_threads, fetch
from mrl_experiments.adaptive.retrieval.shortlist import core_of
from mrl_experiments.directions import HIGHEST, LOWEST

QUERIES = 64  # whose similarities to all centroids are in memory at a time
FEW = 4  # queries, up to which products of matrices gain nothing
LARGEST = 2**31 - 1  # of a sum of products
BLOCK = 16  # centroids that are compared with the last of the nearest at once
SLACK = 8  # deviations of the rounding
AHEAD = 4  # how many candidates before one is compared its memory is fetched
ROWS = 65536  # vectors at a time


@dataclass(frozen=True, eq=False)
class Codes:
    """Vectors (N, D) in a byte a feature: codes * step + low, without what rounding changes.

    Attributes:
        source: Of what they are, None if that is not kept.
    """

    codes: NDArray[np.uint8]
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    source: Any = None

    @classmethod
    def of(cls, vectors: NDArray[np.float32], norms: NDArray[np.float32]) -> "Codes":
        """Return the codes of the directions of vectors (N, D) with inverse norms (N,).

        Indexes of the same array share them.
        """
        known = KNOWN.get(id(vectors))
        if known is not None and known.source is vectors:
            return known
        starts = range(0, len(vectors), ROWS)
        parts = [slice(start, start + ROWS) for start in starts]
        ends = [((part := vectors[rows] * norms[rows, None]).min(axis=0), part.max(axis=0)) for rows in parts]
        low = np.min([least for least, _ in ends], axis=0)
        step = np.maximum((np.max([most for _, most in ends], axis=0) - low) / 255, np.float32(1e-20))
        codes = np.empty(vectors.shape, np.uint8)
        for rows in parts:
            codes[rows] = np.rint((vectors[rows] * norms[rows, None] - low) / step).clip(0, 255)
        found = KNOWN[id(vectors)] = cls(codes, low, step, vectors)
        return found


KNOWN: WeakValueDictionary[int, Codes] = WeakValueDictionary()


@dataclass(frozen=True)
class ByteLists:
    """Lists of unit prefixes, or of a linear map of unit vectors, and the vectors, for searches by cosine.

    Attributes:
        count: How many vectors the index held when this was made.
        index: FAISS's lists.
        near: Codes of the lists (N, dim) of what each vector's centroid leaves over, list by list.
        places: (N,) positions of these.
        starts: (L + 1,) where each list begins.
        centroids: (dim, L).
        turn: (dim, D) of a linear map before the lists; (0, 0) for none.
        shift: (dim,) what that adds.
        vectors: (N, D) as they are kept.
        norms: (N,) inverse norms of these.
        whole: Their directions in bytes.
    """

    count: int
    index: Any
    near: Codes
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    centroids: NDArray[np.float32]
    turn: NDArray[np.float32]
    shift: NDArray[np.float32]
    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]
    whole: Codes

    @classmethod
    def of(cls, index: Any, vectors: NDArray[np.float32], norms: NDArray[Any]) -> "ByteLists | None":
        """Return what searches an index of FAISS and vectors (N, D); None if it is of another kind."""
        outer, core = faiss.downcast_index(index), core_of(index)
        if not (
            isinstance(core, faiss.IndexIVFScalarQuantizer)
            and core.metric_type == faiss.METRIC_INNER_PRODUCT
            and core.sq.qtype == faiss.ScalarQuantizer.QT_8bit
            and core.by_residual
            and isinstance(faiss.downcast_index(core.quantizer), faiss.IndexFlat)
            and norms.dtype == np.float32
        ):
            return None
        turn, shift = np.empty((0, 0), np.float32), np.zeros(core.d, np.float32)
        if isinstance(outer, faiss.IndexPreTransform):
            chain: Any = outer.chain
            maps = [faiss.downcast_VectorTransform(chain.at(at)) for at in range(chain.size())]
            if len(maps) != 1 or not isinstance(maps[0], faiss.LinearTransform):
                return None
            if outer.d != vectors.shape[1]:
                return None  # a map of prefixes
            turn = faiss.vector_to_array(maps[0].A).reshape(core.d, outer.d)
            shift = faiss.vector_to_array(maps[0].b) if maps[0].have_bias else shift
        codes, places, starts = _copied(core)
        low: Any
        span: Any
        low, span = faiss.vector_to_array(core.sq.trained).astype(np.float32).reshape(2, core.d)
        near = Codes(codes, low + span / 510, span / 255)  # FAISS decodes to the middle of a step
        centroids = np.ascontiguousarray(core.quantizer.reconstruct_n(0, core.nlist).T)
        given = places, starts, centroids, turn, shift, vectors, norms, Codes.of(vectors, norms)
        return cls(int(core.ntotal), core, near, *given)

    def search(
        self, queries: NDArray[np.float32], shortlist: int, keep: int, probes: int
    ) -> Candidates | None:
        """Return cosines and positions (Q, keep) of the nearest by all features of a shortlist by few.

        Args:
            queries: (Q, D) contiguous, as they are given.
            shortlist: How many are compared by all features.
            keep: At most `shortlist`.
            probes: Lists that are scanned.

        Returns:
            Positions are -1 where there are fewer. None where a query has no direction or squares out of
            float32's range.
        """
        shape = len(queries), keep
        found = Candidates(np.empty(shape, np.float32), np.empty(shape, np.int64))
        blocks = partial(self._blocks, queries, shortlist, probes, found)
        return found if all(by_threads(len(queries), blocks)) else None

    def _blocks(
        self,
        queries: NDArray[np.float32],
        shortlist: int,
        probes: int,
        found: Candidates,
        first: int,
        last: int,
    ) -> bool:
        near, whole = self.near, self.whole  # one after the other: numba is slow at tuples of arrays
        given: tuple[Any, ...] = self.starts, self.places, near.codes, near.low, near.step
        given += self.vectors, self.norms, whole.codes, whole.low, whole.step, probes, shortlist
        if last - first <= FEW:
            rows = slice(first, last)
            asked = queries[rows], self.turn, self.shift, self.centroids
            return bool(_few(*asked, *given, found.similarities[rows], found.ids[rows]))
        for start in range(first, last, QUERIES):
            rows = slice(start, min(start + QUERIES, last))
            part = queries[rows]
            units, short = np.empty_like(part), np.empty((len(part), len(self.shift)), np.float32)
            if not _directions(part, units, short):
                return False
            if len(self.turn):
                short = units @ self.turn.T + self.shift
            _answer(short @ self.centroids, short, units, *given, found.similarities[rows], found.ids[rows])
        return True


def _copied(core: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return codes (N, dim), positions (N,) and starts (L + 1,) of FAISS's lists."""
    lists: Any = core.invlists
    sizes = [lists.list_size(number) for number in range(core.nlist)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    codes, places = np.empty((starts[-1], core.d), np.uint8), np.empty(starts[-1], np.int64)
    for number, size in enumerate(sizes):
        if size:
            rows = slice(starts[number], starts[number + 1])
            codes[rows] = faiss.rev_swig_ptr(lists.get_codes(number), size * core.d).reshape(size, core.d)
            places[rows] = faiss.rev_swig_ptr(lists.get_ids(number), size)
    return codes, places, starts


@numba.njit(**FAST)
def _directions(queries, units, short):  # type: ignore[no-untyped-def]
    """Put unit vectors into units (Q, D), unit prefixes into short (Q, dim); False where there is none."""
    dim = short.shape[1]
    for row in range(len(queries)):
        query, square, rest = queries[row], np.float32(0), np.float32(0)
        for column in range(dim):
            square += query[column] * query[column]
        for column in range(dim, len(query)):
            rest += query[column] * query[column]
        if not (LOWEST <= square <= HIGHEST and rest <= HIGHEST):
            return False
        inverse, whole = np.float32(1 / np.sqrt(square)), np.float32(1 / np.sqrt(square + rest))
        for column in range(dim):
            short[row, column] = query[column] * inverse
        for column in range(len(query)):
            units[row, column] = query[column] * whole
    return True


@numba.njit(**FAST)
def _products(query, centroids, near):  # type: ignore[no-untyped-def]
    """Add the products of a query (dim,) with centroids (dim, L) to near (L,), four features at a time."""
    for at in range(0, len(query) // 4 * 4, 4):
        one, two, three, four = query[at], query[at + 1], query[at + 2], query[at + 3]
        first, second, third, fourth = centroids[at], centroids[at + 1], centroids[at + 2], centroids[at + 3]
        for column in range(len(near)):
            near[column] += (
                one * first[column] + two * second[column] + three * third[column] + four * fourth[column]
            )
    for at in range(len(query) // 4 * 4, len(query)):
        for column in range(len(near)):
            near[column] += query[at] * centroids[at, column]


@numba.njit(**FAST)
def _few(queries, turn, shift, centroids, *given):  # type: ignore[no-untyped-def]
    """Answer queries (Q, D) one after the other; False where one has no direction."""
    units, short = np.empty_like(queries), np.empty((len(queries), len(shift)), np.float32)
    if not _directions(queries, units, short):
        return False
    near = np.zeros((len(queries), centroids.shape[1]), np.float32)
    for row in range(len(queries)):
        for feature in range(len(turn)):
            total, weights = np.float32(0), turn[feature]
            for column in range(len(weights)):
                total += weights[column] * units[row, column]
            short[row, feature] = total + shift[feature]
        _products(short[row], centroids, near[row])
    _answer(near, short, units, *given)
    return True


@numba.njit(**FAST)
def _sink(values, ids, size, value, number):  # type: ignore[no-untyped-def]
    """Replace the least of a heap, its first."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and values[child + 1] < values[child]:
            child += 1
        if values[child] >= value:
            break
        values[at], ids[at] = values[child], ids[child]
        at = child
    values[at], ids[at] = value, number


@numba.njit(**FAST)
def _offer(values, ids, held, most, value, number):  # type: ignore[no-untyped-def]
    """Put a value above the least into a heap of at most `most`, and return how many it holds."""
    if held == most:
        _sink(values, ids, held, value, number)
        return held
    at = held
    while at > 0 and values[(at - 1) // 2] > value:
        values[at], ids[at] = values[(at - 1) // 2], ids[(at - 1) // 2]
        at = (at - 1) // 2
    values[at], ids[at] = value, number
    return held + 1


@numba.njit(**FAST)
def _nearest_lists(row, values, ids, probes):  # type: ignore[no-untyped-def]
    """Put the nearest lists into values and ids, the nearest first, and return how many there are."""
    held, least = 0, np.float32(-np.inf)
    for start in range(0, len(row), BLOCK):
        end, nearer = min(start + BLOCK, len(row)), 0
        for number in range(start, end):
            nearer += row[number] > least
        if nearer:
            for number in range(start, end):
                if row[number] > least:
                    held = _offer(values, ids, held, probes, row[number], number)
                    least = values[0] if held == probes else least
    for last in range(held - 1, 0, -1):
        value, number = values[last], ids[last]
        values[last], ids[last] = values[0], ids[0]
        _sink(values, ids, last, value, number)
    return held


@numba.njit(**FAST)
def _weighed(query, low, step, weights):  # type: ignore[no-untyped-def]
    """Put whole numbers into weights (D,); return their unit, what is added, the rounding's deviation."""
    peak, base, variance = np.float32(0), np.float32(0), np.float32(0)
    for column in range(len(query)):
        part = query[column] * step[column]
        peak = max(peak, abs(part))
        variance += part * part
        base += query[column] * low[column]
    unit = peak / min(32767, LARGEST // (255 * len(query))) if peak > 0 else np.float32(1)
    for column in range(len(query)):
        weights[column] = np.int16(np.rint(query[column] * step[column] / unit))
    return np.float32(unit), base, np.float32(np.sqrt(variance / 12))


@numba.njit(**FAST)
def _total(codes, weights):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for column in range(len(weights)):
        total = np.int32(total + np.int32(np.int32(codes[column]) * np.int32(weights[column])))
    return total


@numba.njit(**FAST)
def _answer(  # type: ignore[no-untyped-def]
    near,
    short,
    units,
    starts,
    listed,
    codes,
    low,
    step,
    vectors,
    norms,
    wide,
    floor,
    unit,
    probes,
    shortlist,
    scores,
    places,
):
    """Put what is nearest into scores and places (Q, keep); near (Q, L) are products with centroids."""
    few, all_ = np.empty(short.shape[1], np.int16), np.empty(units.shape[1], np.int16)
    values, numbers = np.empty(probes, np.float32), np.empty(probes, np.int64)
    likely, rows = np.empty(shortlist, np.float32), np.empty(shortlist, np.int64)
    for row in range(len(near)):
        probed = _nearest_lists(near[row], values, numbers, probes)
        one, base, _ = _weighed(short[row], low, step, few)
        held = _scanned(values, numbers[:probed], few, one, base, starts, listed, codes, likely, rows)
        one, base, deviation = _weighed(units[row], floor, unit, all_)
        best, there = scores[row], places[row]
        least = _by_bytes(rows[:held], all_, one, base, wide, likely, best, there) - SLACK * deviation
        _compared(units[row], rows[:held], likely, least, vectors, norms, best, there)


@numba.njit(**FAST)
def _scanned(values, numbers, weights, unit, base, starts, places, codes, likely, rows):  # type: ignore[no-untyped-def]
    """Put what is nearest in some lists into the heap likely, rows, and return how many it holds."""
    held, least, dim = 0, np.float32(-np.inf), len(weights)
    address = codes.ctypes.data
    for number in range(len(numbers)):
        first, last, following, after = starts[numbers[number]], starts[numbers[number] + 1], 0, 0
        if number + 1 < len(numbers):
            following, after = starts[numbers[number + 1]], starts[numbers[number + 1] + 1]
        start = values[number] + base
        for place in range(first, last):
            if following < after:
                for line in range(0, dim, LINE):
                    fetch(address + following * dim + line)
                following += 1
            score = start + np.float32(_total(codes[place], weights)) * unit
            if score > least:
                held = _offer(likely, rows, held, len(likely), score, places[place])
                least = likely[0] if held == len(likely) else least
    return held


@numba.njit(**FAST)
def _by_bytes(rows, weights, unit, base, codes, likely, best, places):  # type: ignore[no-untyped-def]
    """Put cosines by bytes of rows (n,) into likely, and return that of the last to keep."""
    held, dim, address = 0, len(weights), codes.ctypes.data
    for number in range(len(rows)):
        if number + AHEAD < len(rows):
            for line in range(0, dim, LINE):
                fetch(address + rows[number + AHEAD] * dim + line)
        likely[number] = base + np.float32(_total(codes[rows[number]], weights)) * unit
        if held < len(best) or likely[number] > best[0]:
            held = _offer(best, places, held, len(best), likely[number], rows[number])
    return best[0] if held == len(best) else np.float32(-np.inf)


@numba.njit(**FAST)
def _compared(query, rows, likely, least, vectors, norms, scores, places):  # type: ignore[no-untyped-def]
    """Put the nearest of rows (n,) whose cosine by bytes is not below `least` in order."""
    held = count = 0
    for number in range(len(rows)):
        if likely[number] >= least:
            rows[count] = rows[number]
            count += 1
    address, dim = vectors.ctypes.data, len(query)
    for number in range(count):
        if number + 2 < count:
            for line in range(0, 4 * dim, LINE):
                fetch(address + rows[number + 2] * 4 * dim + line)
        place, score = rows[number], np.float32(0)
        for column in range(dim):
            score += query[column] * vectors[place, column]
        score *= norms[place]
        at = held
        if held == len(scores):
            at -= 1
            if score < scores[at] or (score == scores[at] and place > places[at]):
                continue
        else:
            held += 1
        while at > 0 and (score > scores[at - 1] or (score == scores[at - 1] and place < places[at - 1])):
            scores[at], places[at] = scores[at - 1], places[at - 1]
            at -= 1
        scores[at], places[at] = score, place
    scores[held:], places[held:] = -np.inf, -1
