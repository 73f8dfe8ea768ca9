"""Adaptive retrieval: a shortlist at D_s, re-ranked at every larger D_r."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.results import Measurement, Setting
from mrl_experiments.search.staged_search import StagedSearch, nested_dims


def adaptive_retrieval(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    indexes: Mapping[str, Callable[..., IndexSpec]],
    k: int,
    shortlist: int,
    lengths: Sequence[int],
    lengths_dim: int,
    max_queries: int,
    timed: int,
) -> Iterator[Measurement]:
    """Yield each pair (D_s, D_r) for each index; a row's `dim` is D_s, D_r = D_s is a search without re-rank.

    mAP@k, P@k (hits / k) and top1 are means over `queries` queries, at most `max_queries`. macs:
    multiply-adds per query. latency_ms: per query in one batch with one thread, single_latency_ms: one query
    at a time, and both with all threads. index_bytes: what the shortlist takes besides the vectors.
    build_seconds: with all threads. An index that this database is too small for is left out, with a line
    that says so. Source: Section 4.3.1, Tables 11, 12, 30 and 31, Figure 8 of the paper; IVF and codes:
    AdANNS (2023).

    Args:
        indexes: By name, an IndexSpec that lacks its dims and stages.
        shortlist: K of all pairs.
        lengths: Further K, for the pair (lengths_dim, D).
        timed: Queries of the timed batch.

    Raises:
        UserError: If no index is left.
    """
    search = StagedSearch.of(queries, database, k, max_queries, timed)
    nested = nested_dims(queries, dims)
    lengths = lengths if lengths_dim in nested[:-1] else ()
    for name, dim, index, costs in search.build_all(indexes, nested):
        yield from costs
        yield from search.measure(index, [(dim, k)], Setting(index=name, rerank=dim, shortlist=k))
        pairs = [(rerank_dim, shortlist) for rerank_dim in nested if rerank_dim > dim]
        if dim == lengths_dim:
            pairs += [(nested[-1], length) for length in lengths if length != shortlist]
        for rerank_dim, length in pairs:
            setting = Setting(index=name, rerank=rerank_dim, shortlist=length)
            yield from search.measure(index, [(dim, length), (rerank_dim, k)], setting)
