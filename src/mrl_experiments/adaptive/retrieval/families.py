"""The indexes worth trying when the index is chosen automatically."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrl_experiments.adaptive.retrieval.rerank import COMPILED
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.tuning import Family

SMALLEST_SCAN = 16  # below, classes are too close for a shortlist of useful length
LIST_LENGTH = 32  # vectors on average; shorter lists cost more to find than to scan
PROBES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256)
# Of lists that a compiled loop searches: margins, and how many are read at most by those up to the next.
MARGINS = {128: (0.5, 1, 1.5, 1.75, 2, 2.25, 2.5, 2.75), 512: (3, 3.5, 4, 5)}
CODES = 64  # of 4 bits a vector, of an index on disk
# Shortlists to try on disk, in units of k: for 0.95 of ten million vectors 160 do, and 320 can be shown to.
LONG = (5, 10, 20, 40, 80, 160, 320)
EFFORTS = (16, 32, 64, 128, 256)


def nested_families(count: int, dims: Sequence[int], k: int) -> list[Family]:
    """Return families for `count` vectors that scan a nested dim well below the full width and re-rank.

    Clustered lists with 4 bits a feature (product codes of one feature each, of what the list's centroid
    leaves over) or 8 bits, and HNSW at the shortest; exact scans for a database too small to cluster.
    """
    scanned = [dim for dim in dims[:-1] if SMALLEST_SCAN <= dim <= dims[-1] // 8] or list(dims[:1])
    return _scanning(scanned, count, dims, k)


def wider_families(count: int, dims: Sequence[int], k: int) -> list[Family]:
    """Return the families for vectors whose first dims tell too little: larger dims, and the full width.

    The last is exact search, which loses nothing.
    """
    larger = [dim for dim in dims[1:-1] if dim > dims[-1] // 8 and dim >= SMALLEST_SCAN]
    return [*_scanning(larger, count, dims, k), *full_width_families(count, dims[-1], k), _exact(dims[-1], k)]


def declared_families(
    count: int, dims: Sequence[int], k: int, similarity: str = "cosine"
) -> tuple[list[Family], list[Family]]:
    """Return what is tried for a declared recall, and what else where none of it is likely to do.

    The former scan nested dims up to half the width, or whole vectors in the forms that do best without
    nesting: so that vectors which are not nested get an index that suits them.
    """
    width = dims[-1]
    exact = [_by(_exact(width, k), similarity)]
    if lists(count) < 2:
        return [], exact
    scanned = [dim for dim in dims[:-1] if dim >= min(SMALLEST_SCAN, dims[0] * 2)] or list(dims[:-1])
    found = []
    for dim in scanned:
        plans = _plans(dim, dims, count, k)
        codes = _scanned(dim, similarity)
        spec = IndexSpec((dim,), f"IVF{lists(count)},{codes}", plans[0])
        both = codes == "SQ8" and width // 16 <= dim <= width // 4
        for rest in (False, True) if both else (False,):
            found.append(Family(replace(spec, rest=rest), efforts_of(lists(count), codes), plans))
    found += opponent_families(count, width, k, similarity)
    return [_by(family, similarity) for family in found], exact


def opponent_families(count: int, width: int, k: int, similarity: str = "cosine") -> list[Family]:
    """Return the forms of search that do best on vectors of any kind, whose shortlists the vectors order.

    Args:
        count: N.
        width: D.
        k: How many are found.
        similarity: What near means.
    """
    plans = [((width, min(factor * k, count)), (width, k)) for factor in (2, 3, 5, 10, 20, 40)]
    ivf, efforts, probes = f"IVF{lists(count)}", _efforts("efSearch", EFFORTS), _probes(lists(count))
    found = [f"RR{width},{ivf},RaBitQfs", f"{ivf},PQ{width // 2}x4fsr"]
    bytes_ = efforts_of(lists(count), "SQ8")
    found += [f"PCA{dim},{ivf},{_scanned(dim, similarity)}" for dim in (32, 64, 128) if dim < width]
    coded = [
        Family(IndexSpec((width,), codes, plans[0]), bytes_ if "SQ8" in codes else probes, plans)
        for codes in found
    ]
    graph = Family(IndexSpec((width,), "HNSW32_SQ8", plans[0]), efforts, plans[:2])
    return [*coded, graph, *full_width_families(count, width, k)]


def large_family(
    count: int, dim: int, width: int, k: int, similarity: str = "cosine", lists_there: int | None = None
) -> Family:
    """Return what an index on disk is by itself: lists with 32 bytes a vector, and long shortlists.

    Two features share 4 bits from 128 dims on: at equal bytes these find more than half the features with 4
    bits each.

    Args:
        count: N.
        dim: What is scanned.
        width: D.
        k: How many are found.
        similarity: What near means.
        lists_there: Of an index that is described otherwise; None for those that suit N.
    """
    plans = [((dim, min(factor * k, count)), (width, k)) for factor in LONG]
    number = lists(count) if lists_there is None else lists_there
    given = {"effort": f"nprobe={min(32, number)}", "similarity": similarity}
    parts = next(size for size in range(min(CODES, dim), 0, -1) if dim % size == 0)
    return Family(IndexSpec((dim,), f"IVF{number},PQ{parts}x4fsr", plans[2], **given), _probes(number), plans)  # type: ignore[arg-type]


def _scanned(dim: int, similarity: str) -> str:
    """Return the codes of `dim` features that are scanned soonest: bytes where a compiled loop does."""
    return "SQ8" if COMPILED and similarity == "cosine" else f"PQ{dim}x4fsr"


def _exact(width: int, k: int) -> Family:
    """Return the family that compares all vectors whole."""
    stages = ((width, k),)
    return Family(IndexSpec((width,), "Flat", stages), ("",), [stages])


def _by(family: Family, similarity: str) -> Family:
    return replace(family, spec=replace(family.spec, similarity=similarity))


def _scanning(scanned: Sequence[int], count: int, dims: Sequence[int], k: int) -> list[Family]:
    families = []
    for dim in scanned:
        ivf, probes = f"IVF{lists(count)}", _probes(lists(count))
        codes = [(f"{ivf},PQ{dim}x4fsr", probes), (f"{ivf},SQ8", efforts_of(lists(count), "SQ8"))]
        if dim == scanned[0]:
            codes.append(("HNSW32", _efforts("efSearch", EFFORTS)))
        if lists(count) < 2:
            codes = [("Flat", ("",))]
        plans = _plans(dim, dims, count, k)
        families += [Family(IndexSpec((dim,), code, plans[0]), efforts, plans) for code, efforts in codes]
    return families


def full_width_families(count: int, width: int, k: int) -> list[Family]:
    """Return the families that use all features at once: what nested representations compete with.

    Half as many lists: comparing a query with wide centroids costs as much as scanning.
    """
    stages = ((width, k),)
    wide = max(1, lists(count) // 2)
    return [
        Family(IndexSpec((width,), "HNSW32", stages), _efforts("efSearch", EFFORTS), [stages]),
        Family(IndexSpec((width,), f"IVF{wide},Flat", stages), _probes(wide), [stages]),
    ]


def lists(count: int) -> int:
    """Return a power of two near eight times the root of N, within FAISS's advice of 4 to 16 times."""
    wanted = min(8 * np.sqrt(count), count / LIST_LENGTH)
    return int(2 ** np.floor(np.log2(max(1.0, wanted))))


def _plans(dim: int, dims: Sequence[int], count: int, k: int) -> list[tuple[tuple[int, int], ...]]:
    """Return stages for growing shortlists: straight to full width, and through the next dim but one."""
    width = dims[-1]
    shortlists = [min(factor * k, count) for factor in (3, 5, 10, 20, 40)]
    plans: list[tuple[tuple[int, int], ...]] = [((dim, keep), (width, k)) for keep in shortlists]
    between = [other for other in dims if 2 * dim <= other < width]
    if between:
        plans += [((dim, keep), (between[0], min(3 * k, keep)), (width, k)) for keep in shortlists[2:]]
    return plans


def efforts_of(most: int, codes: str) -> tuple[str, ...]:
    """Return the efforts to try of so many lists: by margins where a compiled loop searches their codes."""
    if codes != "SQ8" or not COMPILED:
        return _probes(most)
    found = [
        f"nprobe={min(most, read)},margin={margin}" for read, margins in MARGINS.items() for margin in margins
    ]
    return *found, f"nprobe={min(most, max(MARGINS))}"


def _efforts(name: str, values: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for value in values)


def _probes(most: int) -> tuple[str, ...]:
    return _efforts("nprobe", sorted({min(value, most) for value in PROBES}))
