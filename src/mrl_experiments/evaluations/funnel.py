"""Funnel retrieval: a shortlist that shrinks while its re-rank doubles its dim."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.results import Measurement, Setting
from mrl_experiments.search.staged_search import StagedSearch, nested_sizes

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

    cascades: lengths, longest first: the scan keeps the first, each re-rank the next, at growing dims, and
    the last re-rank keeps k of the list that is left, at full width. Metrics as in `adaptive_retrieval`.
    Source: Section 4.3.1, Tables 13 and 14, Figure 8 of the paper.
    """
    search = StagedSearch.of(queries, database, k, max_queries, timed)
    sizes = nested_sizes(queries, dims)
    if len(sizes) < 3:
        raise UserError(
            f"dims={list(dims)} leave no two re-ranks", expected="at least three nested dims for a funnel"
        )
    for name, dim, index, _ in search.build_all(indexes, sizes[:-2]):
        for lengths in cascades:
            stages = funnel_stages(sizes[sizes.index(dim) :], lengths, k)
            yield from search.measure(index, stages, Setting(index=name, stages=stages))


def funnel_stages(sizes: Sequence[int], lengths: Sequence[int], k: int) -> Stages:
    """Return the stages that scan sizes[0] and re-rank each list at the next dim, the last at sizes[-1]."""
    kept = [length for length in lengths if length >= k]
    between = sizes[: min(len(kept), len(sizes) - 1)]
    return [*zip(between, kept, strict=False), (sizes[-1], k)]
