"""Evaluations, one per file: embeddings in, measurements out."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.results import Measurement


class Evaluation(Protocol):
    """A function that measures embeddings of one split; its options are bound by conf/evaluation.

    To add one, write `x(queries, database, dims, *, ...)` in `evaluations/x.py` and `conf/evaluation/x.yaml`.

    Example:
        >>> def mean_norm(queries, database, dims, *, power):
        ...     for dim in dims:
        ...         norms = (queries.at(dim) ** 2).sum(axis=1) ** 0.5
        ...         yield Measurement(dim, "norm", float((norms**power).mean()), {"power": power})
    """

    def __call__(
        self, queries: Embeddings, database: Embeddings | None, dims: Sequence[int], /
    ) -> Iterable[Measurement]:
        """Yield measurements.

        Args:
            queries: N embeddings of D features; `queries.at(dim)` are their prefixes (N, dim).
            database: What queries are searched in, or None. It may be the queries' own split, which
                `search.same_rows` finds out.
            dims: Prefixes to measure, ascending, each from 1 to D.

        Raises:
            UserError: If the embeddings lack what is measured, such as classifiers.
        """
