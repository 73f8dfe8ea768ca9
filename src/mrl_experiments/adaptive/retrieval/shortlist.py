"""The FAISS index that scans one prefix for a shortlist."""

import re
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.similarity import compared, metric
from mrl_experiments.adaptive.retrieval.spec import BOUNDED, IndexSpec, split_effort
from mrl_experiments.directions import BLOCK
from mrl_experiments.errors import UserError

LISTS = re.compile(r"IVF(\d+)")  # in codes
QUERY_BY_QUERY = 11  # how FAISS scans 4-bit codes; a tenth faster than what it takes for batches
LARGE = 1 << 28  # bytes of prefixes that are copied at once
PER_LIST = 256  # vectors that FAISS takes of those that train
ADVISED = 39  # vectors a list or centroid, below which FAISS warns


def build_shortlist(
    vectors: NDArray[np.float32], dim: int, spec: IndexSpec, rows: NDArray[np.int64] | None = None
) -> faiss.Index:
    """Train and fill the FAISS index of the prefixes at `dim`; of unit norm for cosines.

    Args:
        vectors: (N, D).
        dim: What is scanned.
        spec: The codes and their search.
        rows: The vectors that the index learns from and holds, None for all; `insert` adds others.

    Raises:
        UserError: If FAISS cannot build `spec.codes` at this dim or from this many vectors.
    """
    count = len(vectors) if rows is None else len(rows)
    if 4 * count * dim > LARGE:
        return _built_in_blocks(vectors, dim, spec, rows)
    units = compared(vectors if rows is None else vectors[rows], dim, spec.similarity, spec.rest)
    index = trained_shortlist(units, spec, dim)
    if rows is None:
        index.add(units)
    else:
        index = _named(index)
        index.add_with_ids(units, rows)
    set_effort(index, spec.effort)
    return index


def _built_in_blocks(
    vectors: NDArray[np.float32], dim: int, spec: IndexSpec, rows: NDArray[np.int64] | None
) -> faiss.Index:
    """Build from vectors that may not fit into memory: trained on evenly spaced ones, filled by blocks."""
    chosen = np.arange(len(vectors)) if rows is None else rows
    most = max(BLOCK, PER_LIST * max(lists_of(spec.codes), default=0))
    sample = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(np.int64))]
    end = None if spec.rest else dim  # of what is read
    index = trained_shortlist(compared(vectors[sample, :end], dim, spec.similarity, spec.rest), spec, dim)
    index = index if rows is None else _named(index)
    for start in range(0, len(chosen), BLOCK):
        part = chosen[start : start + BLOCK]
        block = vectors[start : start + BLOCK, :end] if rows is None else vectors[part, :end]
        extend_shortlist(index, block, part, spec.similarity, spec.rest)
    set_effort(index, spec.effort)
    return index


def trained_shortlist(units: NDArray[np.float32], spec: IndexSpec, dim: int) -> faiss.Index:
    """Return the FAISS index of prefixes, empty, with its lists and codes trained on `units` (N, dim).

    Raises:
        UserError: If FAISS cannot build `spec.codes` at this dim or from this many vectors.
    """
    try:
        if any(not 1 <= lists <= len(units) for lists in lists_of(spec.codes)):
            # FAISS would take memory for them first.
            raise RuntimeError("no list, or more lists than vectors")
        by = "l2" if spec.codes == BOUNDED and spec.similarity == "cosine" else spec.similarity
        index = faiss.index_factory(units.shape[1], spec.codes, metric(by))
        _accept_few_vectors(index)
        if spec.coarse_dim not in (None, dim):
            _cluster_shorter_prefix(index, units, spec.coarse_dim, spec.similarity)
        index.train(units)
    except RuntimeError as error:
        raise UserError(
            f"codes={spec.codes!r} for {len(units)} prefixes of {dim} features: {_reason(error)}",
            expected="a faiss.index_factory description that fits the dim, with fewer clusters than vectors",
            remedy='for example codes=Flat, codes=HNSW32 or codes="IVF256,SQ8"',
        ) from error
    return index


def _named(index: Any) -> Any:
    """Return an index that takes positions with its vectors: lists do, others by a table of them."""
    if isinstance(core_of(index), faiss.IndexIVF):
        return index
    table: Any = faiss.IndexIDMap(index)
    table.own_fields = True
    index.this.disown()
    return table


def core_of(index: Any) -> Any:
    """Return what searches, without transforms before it and tables of positions around it."""
    index = faiss.downcast_index(index)
    if isinstance(index, (faiss.IndexPreTransform, faiss.IndexIDMap)):
        return core_of(index.index)
    return index


def lists_of(codes: str) -> list[int]:
    """Return how many lists codes such as "IVF256,Flat" have, [] where they have none."""
    return [int(lists) for lists in LISTS.findall(codes)]


def _accept_few_vectors(index: Any) -> None:
    """Keep FAISS from writing to standard error, at each training, that a list could do with more vectors."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        _accept_few_vectors(index.index)
    parts: list[Any] = [index, getattr(index, "pq", None)]
    for part in parts:
        if hasattr(part, "cp"):
            part.cp.min_points_per_centroid = 1


def extend_shortlist(
    index: Any, vectors: NDArray[np.float32], rows: NDArray[np.int64], similarity: str, rest: bool = False
) -> None:
    """Append vectors (N, D), in rows (N,), to a built index, a block at a time."""
    by_row = isinstance(faiss.downcast_index(index), faiss.IndexIDMap) or isinstance(
        core_of(index), faiss.IndexIVF
    )
    for start in range(0, len(vectors), BLOCK):
        block = compared(vectors[start : start + BLOCK], index.d - rest, similarity, rest)
        if by_row:
            index.add_with_ids(block, rows[start : start + BLOCK])
        else:
            index.add(block)


def search_parameters(index: Any, mask: NDArray[np.bool_] | None, effort: str | None) -> Any:
    """Return parameters of one search: what it may find, and its effort if that is not the index's.

    Args:
        index: As `build_shortlist` returns it.
        mask: (N,) True where a position may be found, None for all.
        effort: "nprobe=..." or "efSearch=...".

    Returns:
        None if this kind of index takes no mask.
    """
    pairs = (part.split("=") for part in split_effort(effort or "").faiss.split(",") if part)
    chosen = {name: int(value) for name, value in pairs}
    selector: Any = None
    if mask is not None:
        bits = np.packbits(mask, bitorder="little")
        made: Any = faiss.IDSelectorBitmap
        selector = made(bits)
        selector.bits_of_python = bits  # which it only points to
    core, outer = core_of(index), faiss.downcast_index(index)
    kinds: Any = faiss  # whose constructors take keywords that its type stubs lack
    if isinstance(core, faiss.IndexIVF):
        nprobe = min(chosen.get("nprobe", core.nprobe), core.nlist)
        found = kinds.SearchParametersIVF(sel=selector, nprobe=nprobe)
    elif isinstance(outer, (faiss.IndexPreTransform, faiss.IndexIDMap)) and mask is not None:
        return None
    elif isinstance(core, faiss.IndexHNSW):
        found = kinds.SearchParametersHNSW(sel=selector, efSearch=chosen.get("efSearch", core.hnsw.efSearch))
    else:
        found = kinds.SearchParameters(sel=selector)
    if isinstance(outer, faiss.IndexPreTransform):
        found = kinds.SearchParametersPreTransform(index_params=found)
    return found


def probes(index: Any, effort: str | None = None) -> int:
    """Return how many lists a search with an effort reads; None for the effort of the index."""
    core = core_of(index)
    chosen = dict(part.split("=") for part in split_effort(effort or "").faiss.split(",") if part)
    return int(min(int(chosen.get("nprobe", core.nprobe)), core.nlist))


def set_effort(index: faiss.Index, effort: str) -> None:
    """Set search parameters such as "nprobe=16".

    Raises:
        UserError: If the index has no such parameter.
    """
    try:
        outer: Any = faiss.downcast_index(index)
        inner = outer.index if isinstance(outer, faiss.IndexIDMap) else outer
        space: Any = faiss.ParameterSpace()
        space.set_index_parameters(inner, split_effort(effort).faiss)
        core = core_of(outer)
        if isinstance(core, faiss.IndexIVF):
            core.nprobe = min(core.nprobe, core.nlist)  # with more, scans of 4 bits lose neighbours
        if isinstance(core, faiss.IndexIVFFastScan):
            core.implem = QUERY_BY_QUERY
    except RuntimeError as error:
        raise UserError(
            f"effort={effort!r}: {_reason(error)}",
            expected="nprobe=... for an IVF index, efSearch=... for HNSW, nothing for the others",
        ) from error


def scanned_vectors(
    index: Any, queries: NDArray[np.float32], keep: int, spread: NDArray[Any] | None = None
) -> float:
    """Return how many vectors a unit-norm query (Q, dim) is compared with on average, to find `keep`.

    A centroid counts by its share of the scanned dim. A graph's comparisons are those that FAISS counts. Of
    lists that a margin leaves out `spread` (dim,) tells: its square, in units of the products, by feature.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        return scanned_vectors(index.index, queries, keep, spread)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for number in range(chain.size()):
            queries = chain.at(number).apply(queries)
        return scanned_vectors(index.index, queries, keep, spread)
    if isinstance(index, faiss.IndexIVF):
        sizes = np.array([index.get_list_size(number) for number in range(index.nlist)])
        near, probed = index.quantizer.search(queries, index.nprobe)
        centroids: Any = faiss.downcast_index(index.quantizer)
        coarse_dim = centroids.index.d if isinstance(centroids, faiss.IndexPreTransform) else centroids.d
        read = sizes[probed]
        if spread is not None:
            read = read * (near >= near[:, :1] - np.sqrt(np.square(queries) @ spread)[:, None])
        return float(index.nlist * coarse_dim / index.d + read.sum(axis=1).mean())
    if isinstance(index, faiss.IndexHNSW):
        statistics: Any = faiss.cvar
        statistics.hnsw_stats.reset()
        index.search(queries, keep)
        return float(statistics.hnsw_stats.ndis / len(queries))
    return float(index.ntotal)


def _cluster_shorter_prefix(index: Any, units: NDArray[np.float32], coarse_dim: int, similarity: str) -> None:
    """Give an untrained IVF index centroids of `coarse_dim`, which its training then leaves as they are."""
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexIVF):
        raise UserError(
            f"coarse_dim={coarse_dim} without lists to cluster, or after a rotation",
            expected='codes that start with "IVF"',
            remedy="leave coarse_dim out",
        )
    spherical = similarity == "cosine"
    clustering: Any = faiss.Kmeans(
        coarse_dim, index.nlist, niter=index.cp.niter, spherical=spherical, min_points_per_centroid=1
    )
    clustering.train(compared(units, coarse_dim, similarity))
    centroids: Any = faiss.IndexFlat(coarse_dim, metric(similarity))
    centroids.add(clustering.centroids)
    cut: Any = faiss.LinearTransform(index.d, coarse_dim)
    faiss.copy_array_to_vector(np.eye(coarse_dim, index.d, dtype=np.float32).ravel(), cut.A)
    cut.is_trained = cut.is_orthonormal = True
    quantizer: Any = faiss.IndexPreTransform(cut, centroids)
    index.quantizer, index.own_fields, quantizer.own_fields = quantizer, True, True
    for part in (cut, centroids, quantizer):
        part.this.disown()  # the C++ index frees them now


def _reason(error: RuntimeError) -> str:
    """Return what FAISS says without the C++ signature in front."""
    return str(error).rsplit(": ", 1)[-1].strip()
