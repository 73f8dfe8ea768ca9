"""The FAISS index that scans one prefix for a shortlist."""

import re
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.directions import BLOCK, unit_prefixes
from mrl_experiments.errors import UserError

LISTS = re.compile(r"IVF(\d+)")  # in codes
ADVISED = 39  # vectors a list or centroid, below which FAISS warns


def build_shortlist(vectors: NDArray[np.float32], dim: int, spec: IndexSpec) -> faiss.Index:
    """Train and fill the FAISS index of the unit-norm prefixes at `dim`; inner product is then the cosine.

    Raises:
        UserError: If FAISS cannot build `spec.codes` at this dim or from this many vectors.
    """
    units = unit_prefixes(vectors, dim)
    try:
        if any(not 1 <= lists <= len(vectors) for lists in lists_of(spec.codes)):
            # FAISS would take memory for them first.
            raise RuntimeError("no list, or more lists than vectors")
        index = faiss.index_factory(dim, spec.codes, faiss.METRIC_INNER_PRODUCT)
        _accept_few_vectors(index)
        if spec.coarse_dim not in (None, dim):
            _cluster_shorter_prefix(index, units, spec.coarse_dim)
        index.train(units)
        index.add(units)
    except RuntimeError as error:
        raise UserError(
            f"codes={spec.codes!r} for {len(vectors)} prefixes of {dim} features: {_reason(error)}",
            expected="a faiss.index_factory description that fits the dim, with fewer clusters than vectors",
            remedy='for example codes=Flat, codes=HNSW32 or codes="IVF256,SQ8"',
        ) from error
    set_effort(index, spec.effort)
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


def extend_shortlist(index: faiss.Index, vectors: NDArray[np.float32]) -> None:
    """Append vectors (N, D) to a built index, a block at a time."""
    for start in range(0, len(vectors), BLOCK):
        index.add(unit_prefixes(vectors[start : start + BLOCK], index.d))


def set_effort(index: faiss.Index, effort: str) -> None:
    """Set search parameters such as "nprobe=16".

    Raises:
        UserError: If the index has no such parameter.
    """
    try:
        faiss.ParameterSpace().set_index_parameters(index, effort)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise UserError(
            f"effort={effort!r}: {_reason(error)}",
            expected="nprobe=... for an IVF index, efSearch=... for HNSW, nothing for the others",
        ) from error


def scanned_vectors(index: Any, queries: NDArray[np.float32], keep: int) -> float:
    """Return how many vectors a unit-norm query (Q, dim) is compared with on average, to find `keep`.

    A centroid counts by its share of the scanned dim. A graph's comparisons are those that FAISS counts.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for number in range(chain.size()):
            queries = chain.at(number).apply(queries)
        return scanned_vectors(index.index, queries, keep)
    if isinstance(index, faiss.IndexIVF):
        sizes = np.array([index.get_list_size(number) for number in range(index.nlist)])
        _, probed = index.quantizer.search(queries, index.nprobe)
        centroids: Any = faiss.downcast_index(index.quantizer)
        coarse_dim = centroids.index.d if isinstance(centroids, faiss.IndexPreTransform) else centroids.d
        return float(index.nlist * coarse_dim / index.d + sizes[probed].sum(axis=1).mean())
    if isinstance(index, faiss.IndexHNSW):
        statistics: Any = faiss.cvar
        statistics.hnsw_stats.reset()
        index.search(queries, keep)
        return float(statistics.hnsw_stats.ndis / len(queries))
    return float(index.ntotal)


def _cluster_shorter_prefix(index: Any, units: NDArray[np.float32], coarse_dim: int) -> None:
    """Give an untrained IVF index centroids of `coarse_dim`, which its training then leaves as they are."""
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexIVF):
        raise UserError(
            f"coarse_dim={coarse_dim} without lists to cluster, or after a rotation",
            expected='codes that start with "IVF"',
            remedy="leave coarse_dim out",
        )
    clustering: Any = faiss.Kmeans(
        coarse_dim, index.nlist, niter=index.cp.niter, spherical=True, min_points_per_centroid=1
    )
    clustering.train(unit_prefixes(units, coarse_dim))
    centroids: Any = faiss.IndexFlatIP(coarse_dim)
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
