"""Funnel retrieval: a shortlist that shrinks while its re-rank doubles its dim."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.results import Measurement, Setting
from mrl_experiments.search.staged_search import StagedSearch, nested_dims

Stages = list[tuple[int, int]]


def funnel(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    indexes: Mapping[str, Callable[..., IndexSpec]],
    k: int,
    cascades: Sequence[Sequence[int]],
    max_queries: int,
    timed: int,
) -> Iterator[Measurement]:
    """Yield each list of shortlist lengths from each D_s that leaves at least two re-ranks; `dim` is D_s.

    Metrics are those of `adaptive_retrieval`. Source: Section 4.3.1, Tables 13 and 14, Figure 8 of the paper.

    Args:
        cascades: Lengths, longest first: the scan keeps the first, each re-rank the next, at growing dims,
            and the last re-rank keeps k of the list that is left, at full width.
    """
    search = StagedSearch.of(queries, database, k, max_queries, timed)
    nested = nested_dims(queries, dims)
    if len(nested) < 3:
        raise UserError(
            f"dims={list(dims)} leave no two re-ranks", expected="at least three nested dims for a funnel"
        )
    for name, dim, index, _ in search.build_all(indexes, nested[:-2]):
        for lengths in cascades:
            stages = funnel_stages(nested[nested.index(dim) :], lengths, k)
            yield from search.measure(index, stages, Setting(index=name, stages=stages))


def funnel_stages(nested: Sequence[int], lengths: Sequence[int], k: int) -> Stages:
    """Return the stages that scan nested[0] and re-rank each list at the next dim, the last at nested[-1]."""
    kept = [length for length in lengths if length >= k]
    between = nested[: min(len(kept), len(nested) - 1)]
    return [*zip(between, kept, strict=False), (nested[-1], k)]
