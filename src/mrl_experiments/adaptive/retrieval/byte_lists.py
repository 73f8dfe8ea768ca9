"""Lists of one byte a feature ("IVF4096,SQ8"), searched by a compiled loop from the query to its neighbours.

FAISS trains and keeps the lists; here lie copies of their codes, in groups whose products with a query are
summed side by side (`groups`), and whole vectors in a byte a feature, a quarter of their size. A query's
weights are whole numbers of 8 bits for lists and centroids, of 16 for whole vectors. How many lists a query
reads depends on it: those whose centroids are nearly as near as the nearest, so that an easy query reads few.
Of a shortlist, bytes of all features leave only those to compare whole that may be among the nearest: nearer
than the last of these by no more than eight deviations of what rounding to bytes changes. It needs numba.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import faiss
import numba
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.groups import GROUP, QUAD, Grouped, group_sums
from mrl_experiments.adaptive.retrieval.kernels import FAST, LINE, by_threads, fetch, fixed
from mrl_experiments.adaptive.retrieval.shortlist import core_of
from mrl_experiments.directions import HIGHEST, LOWEST

LARGEST = 2**31 - 1  # of a sum of products
MIDDLE = 128  # of the codes
FIRST, HALVINGS = 1 / 16, 40  # of an interval of similarities: its width, and how often at most
SLACK = 8  # deviations of the rounding
BLOCK = 64  # similarities that are compared at once
AHEAD = 4  # how many candidates before one is compared its memory is fetched
ROWS = 65536  # vectors at a time
EVERY = np.empty(0, bool)  # a mask that leaves out nothing


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
        near: Codes of what each vector's centroid leaves over, list by list.
        places: (16 G,) positions of these.
        centroids: Codes of the centroids, as a single list.
        spread: (dim,) mean squares of what the centroids leave over.
        turn: (dim, D) of a linear map before the lists; (0, 0) for none.
        shift: (dim,) what that adds.
        rest: Prefixes are of whole directions, and their last feature is the norm of what they leave out.
        vectors: (N, D) as they are kept.
        norms: (N,) inverse norms of these.
        whole: Their directions in bytes.
    """

    count: int
    index: Any
    near: Grouped
    places: NDArray[np.int64]
    centroids: Grouped
    spread: NDArray[np.float32]
    turn: NDArray[np.float32]
    shift: NDArray[np.float32]
    rest: bool
    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]
    whole: Codes

    @classmethod
    def of(
        cls, index: Any, vectors: NDArray[np.float32], norms: NDArray[Any], rest: bool = False
    ) -> "ByteLists | None":
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
            if outer.d != vectors.shape[1] or rest:
                return None  # a map of prefixes
            turn = faiss.vector_to_array(maps[0].A).reshape(core.d, outer.d)
            shift = faiss.vector_to_array(maps[0].b) if maps[0].have_bias else shift
        near, places, spread = _copied(core)
        centroids = _of_centroids(core.quantizer.reconstruct_n(0, core.nlist))
        given = places, centroids, spread, turn, shift, rest, vectors, norms, Codes.of(vectors, norms)
        return cls(int(core.ntotal), core, near, *given)

    def search(
        self,
        queries: NDArray[np.float32],
        shortlist: int,
        keep: int,
        probes: int,
        margin: float = np.inf,
        mask: NDArray[np.bool_] | None = None,
    ) -> Candidates | None:
        """Return cosines and positions (Q, keep) of the nearest by all features of a shortlist by few.

        Args:
            queries: (Q, D) contiguous, as they are given.
            shortlist: How many are compared by all features.
            keep: At most `shortlist`.
            probes: Lists that are scanned at most.
            margin: By how much less near than the nearest a list's centroid may be, in deviations of the
                query's products with what the centroids leave over.
            mask: (N,) True where a position may be found, None for all.

        Returns:
            Positions are -1 where there are fewer. None where a query has no direction or squares out of
            float32's range.
        """
        shape = len(queries), keep
        found = Candidates(np.empty(shape, np.float32), np.empty(shape, np.int64))
        allowed = EVERY if mask is None else mask

        def answer(first: int, last: int) -> bool:
            rows = slice(first, last)
            given = allowed, np.float32(margin), probes, shortlist, found.similarities[rows], found.ids[rows]
            return bool(_answered(queries[rows], *self._parts, *given))

        return found if all(by_threads(len(queries), answer)) else None

    @cached_property
    def _parts(self) -> tuple[Any, ...]:
        """What the compiled loop reads, array by array: numba takes tuples of them slowly."""
        near, all_, whole = self.near, self.centroids, self.whole
        parts: tuple[Any, ...] = (
            self.turn,
            self.shift,
            self.rest,
            self.spread,
            all_.codes,
            all_.low,
            all_.step,
        )
        parts += near.codes, near.low, near.step, near.starts, near.sizes, int(near.sizes.max()), self.places
        return *parts, fixed(self.vectors), self.norms, whole.codes, whole.low, whole.step


def _copied(core: Any) -> tuple[Grouped, NDArray[np.int64], NDArray[np.float32]]:
    """Return the codes of FAISS's lists, positions (16 G,) and mean squares (dim,) of what they hold."""
    lists: Any = core.invlists
    low, span = faiss.vector_to_array(core.sq.trained).astype(np.float32).reshape(2, core.d)
    sizes = np.array([lists.list_size(number) for number in range(core.nlist)])
    near = Grouped.room(sizes, low + span / 510, span / 255)  # FAISS decodes to the middle of a step
    places, squares = np.full(near.starts[-1] * GROUP, -1), np.zeros(core.d)
    for number, size in enumerate(sizes.tolist()):
        if size:
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * core.d).reshape(size, core.d)
            near.put(number, codes)
            start = near.starts[number] * GROUP
            places[start : start + size] = faiss.rev_swig_ptr(lists.get_ids(number), size)
            squares += np.square(codes * near.step + near.low).sum(axis=0)
    return near, places, (squares / max(1, sizes.sum())).astype(np.float32)


def _of_centroids(centroids: NDArray[np.float32]) -> Grouped:
    """Return the codes of centroids (L, dim) as one list."""
    low = centroids.min(axis=0)
    step = np.maximum((centroids.max(axis=0) - low) / 255, np.float32(1e-20))
    found = Grouped.room(np.array([len(centroids)]), low, step)
    found.put(0, np.rint((centroids - low) / step).astype(np.uint8))
    return found


@numba.njit(**FAST)
def _direction(query, turn, shift, with_rest, unit, short):  # type: ignore[no-untyped-def]
    """Put a unit vector into unit (D,), what is looked up into short (dim,); False where there is none."""
    dim, square, rest = len(short) - with_rest, np.float32(0), np.float32(0)
    for column in range(dim):
        square += query[column] * query[column]
    for column in range(dim, len(query)):
        rest += query[column] * query[column]
    if not (LOWEST <= square <= HIGHEST and rest <= HIGHEST):
        return False
    inverse, whole = np.float32(1 / np.sqrt(square)), np.float32(1 / np.sqrt(square + rest))
    for column in range(len(query)):
        unit[column] = query[column] * whole
    if not len(turn):
        for column in range(dim):
            short[column] = query[column] * (whole if with_rest else inverse)
    if with_rest:
        short[dim] = np.sqrt(rest) * whole
    for feature in range(len(turn)):
        total, weights = np.float32(0), turn[feature]
        for column in range(len(weights)):
            total += weights[column] * unit[column]
        short[feature] = total + shift[feature]
    return True


@numba.njit(**FAST)
def _weighed(query, low, step, most, weights):  # type: ignore[no-untyped-def]
    """Put whole numbers into weights (D,); return their unit, what is added, the rounding's deviation."""
    peak, base, variance = np.float32(0), np.float32(0), np.float32(0)
    for column in range(len(query)):
        part = query[column] * step[column]
        peak = max(peak, abs(part))
        variance += part * part
    unit = np.float32(peak / most if peak > 0 else 1)
    for column in range(len(query)):
        part = query[column] * step[column]
        weight = np.rint(part / unit)
        weights[column] = weight
        base += query[column] * low[column] + (part - unit * np.float32(weight)) * MIDDLE
    return unit, np.float32(base), np.float32(np.sqrt(variance / 12))


@numba.njit(**FAST)
def _deviation(short, spread):  # type: ignore[no-untyped-def]
    """Return that of products with what the centroids leave over; above 0, as any margin of none is none."""
    variance = np.float32(0)
    for column in range(len(short)):
        variance += short[column] * short[column] * spread[column]
    return np.float32(np.sqrt(variance) + 1e-20)


@numba.njit(**FAST)
def _total(codes, weights):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for column in range(len(weights)):
        total = np.int32(total + np.int32(np.int32(codes[column]) * np.int32(weights[column])))
    return total


@numba.njit(**FAST)
def _largest(values, lanes):  # type: ignore[no-untyped-def]
    """Return the largest of values (n,), n at least 16, of which 16 are compared at once."""
    for at in range(GROUP):
        lanes[at] = values[len(values) - GROUP + at]
    for start in range(0, len(values) - GROUP, GROUP):
        for at in range(GROUP):
            lanes[at] = values[start + at] if values[start + at] > lanes[at] else lanes[at]
    largest = lanes[0]
    for at in range(1, GROUP):
        largest = max(largest, lanes[at])
    return largest


@numba.njit(**FAST)
def _above(values, least):  # type: ignore[no-untyped-def]
    """Return how many of values (n,) are not below the least."""
    count = np.int32(0)
    for at in range(len(values)):
        count += np.int32(values[at] >= least)
    return count


@numba.njit(**FAST)
def _cut(values, most, high):  # type: ignore[no-untyped-def]
    """Return what the `most` largest of values (n,), none above `high`, are not below; more if equal."""
    step = np.float32(FIRST)
    low = np.float32(high - step)
    while _above(values, low) < most:
        high, step = low, step + step
        low -= step
    for _ in range(HALVINGS):
        middle = low + (high - low) / np.float32(2)
        if not low < middle < high:
            break
        count = _above(values, middle)
        if count == most:
            return middle
        if count > most:
            low = middle
        else:
            high = middle
    return low


@numba.njit(**FAST)
def _answered(  # type: ignore[no-untyped-def]
    queries,
    turn,
    shift,
    with_rest,
    spread,
    centroids,
    lowest,
    apart,
    codes,
    low,
    step,
    starts,
    sizes,
    longest,
    listed,
    vectors,
    norms,
    wide,
    floor,
    fine,
    allowed,
    margin,
    probes,
    shortlist,
    scores,
    places,
):
    """Put what is nearest into scores and places (Q, keep); False where a query (D,) has no direction."""
    dim, wide_ = len(shift), queries.shape[1]
    unit, short = np.empty(wide_, np.float32), np.empty(dim, np.float32)
    few, many = np.zeros(-(-dim // QUAD) * QUAD, np.int8), np.empty(wide_, np.int16)
    near, numbers = _room(len(sizes)), np.empty(probes, np.int64)
    found = np.empty(min(len(listed), probes * longest) + 2 * GROUP, np.float32)
    likely, rows = _room(shortlist), np.empty(shortlist, np.int64)
    lanes, finest = np.empty(GROUP, np.float32), min(32767, LARGEST // (255 * wide_))
    for row in range(len(queries)):
        if not _direction(queries[row], turn, shift, with_rest, unit, short):
            return False
        one, base, _ = _weighed(short, lowest, apart, 127, few)
        group_sums(centroids, starts[0], len(sizes), few, one, base, near)
        near[len(sizes) :] = -np.inf
        deviation = _deviation(short, spread)
        lists = numbers[: _lists(near, margin * deviation, numbers, lanes)]
        one, base, _ = _weighed(short, low, step, 127, few)
        count = _scanned(near, lists, few, one, base, starts, sizes, codes, found)
        if len(allowed):
            _masked(found, lists, starts, sizes, listed, allowed)
        held = _shortlisted(found, count, lists, starts, sizes, listed, wide, rows, lanes)
        one, base, rounding = _weighed(unit, floor, fine, finest, many)
        _by_bytes(rows[:held], many, one, base, wide, likely)
        least = np.float32(-np.inf)
        if held > scores.shape[1]:
            least = _cut(likely[:held], scores.shape[1], _largest(likely, lanes))
            least -= np.float32(SLACK * rounding)
        _compared(unit, rows[:held], likely, least, vectors, norms, scores[row], places[row])
    return True


@numba.njit(**FAST)
def _room(count):  # type: ignore[no-untyped-def]
    """Return room for so many similarities and for whole groups, at least one that stays."""
    room = np.empty((count // GROUP + 2) * GROUP, np.float32)
    for at in range(len(room)):
        room[at] = -np.inf
    return room


@numba.njit(**FAST)
def _lists(near, margin, numbers, lanes):  # type: ignore[no-untyped-def]
    """Put the lists to read into numbers, by the products near (L,) with their centroids; return how many."""
    high, held = _largest(near, lanes), 0
    least = high - margin
    if _above(near, least) > len(numbers):
        least = _cut(near, len(numbers), high)
    for start in range(0, len(near), BLOCK):
        block = near[start : start + BLOCK]
        if _above(block, least):
            for at in range(len(block)):
                if block[at] >= least and block[at] > -np.inf and held < len(numbers):
                    numbers[held] = start + at
                    held += 1
    return held


@numba.njit(**FAST)
def _scanned(near, numbers, weights, unit, base, starts, sizes, codes, found):  # type: ignore[no-untyped-def]
    """Put the similarities of what lists hold into found, one list behind the other; return how many."""
    count, wide, address = 0, len(weights) * GROUP, codes.ctypes.data
    for place in range(len(numbers)):
        number = numbers[place]
        if place + 1 < len(numbers):
            following = numbers[place + 1]
            for line in range(starts[following] * wide, starts[following + 1] * wide, LINE):
                fetch(address + line)
        group_sums(codes, starts[number], sizes[number], weights, unit, near[number] + base, found[count:])
        count += sizes[number]
    found[count : count + GROUP] = -np.inf
    return count


@numba.njit(**FAST)
def _masked(found, numbers, starts, sizes, places, allowed):  # type: ignore[no-untyped-def]
    """Take away the similarities of what may not be found."""
    at = 0
    for number in numbers:
        for place in range(starts[number] * GROUP, starts[number] * GROUP + sizes[number]):
            if not allowed[places[place]]:
                found[at] = -np.inf
            at += 1


@numba.njit(**FAST)
def _shortlisted(found, count, numbers, starts, sizes, places, codes, rows, lanes):  # type: ignore[no-untyped-def]
    """Put the places of the largest of `count` similarities into rows, and return how many these are."""
    least, first, held = np.float32(-np.inf), 0, 0
    address, dim = codes.ctypes.data, codes.shape[1]
    if count > len(rows):
        least = _cut(found[:count], len(rows), _largest(found[: count + GROUP], lanes))
    for number in numbers:
        size, start = sizes[number], starts[number] * GROUP
        for begin in range(0, size, BLOCK):
            block = found[first + begin : first + min(begin + BLOCK, size)]
            if _above(block, least):
                for at in range(len(block)):
                    if block[at] >= least and block[at] > -np.inf and held < len(rows):
                        rows[held] = places[start + begin + at]
                        for line in range(0, dim, LINE):
                            fetch(address + rows[held] * dim + line)
                        held += 1
        first += size
    return held


@numba.njit(**FAST)
def _by_bytes(rows, weights, unit, base, codes, likely):  # type: ignore[no-untyped-def]
    """Put cosines by bytes of rows (n,) into likely."""
    for number in range(len(rows)):
        likely[number] = base + np.float32(_total(codes[rows[number]], weights)) * unit


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
