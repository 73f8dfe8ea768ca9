"""Image retrieval: top-1, mAP@k, precision and recall of a ranked database."""

from collections.abc import Iterator, Sequence

import numpy as np

from mrl_experiments import cost
from mrl_experiments.directions import setting_of
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.metrics import ranking
from mrl_experiments.results import Measurement, measured
from mrl_experiments.search.database import labelled, neighbours
from mrl_experiments.search.same_rows import same_rows

FIRST = (1, 5, 10)


def retrieval(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    k: Sequence[int],
    similarity: str = "cosine",
) -> Iterator[Measurement]:
    """Yield retrieval metrics of exact search on unit-norm prefixes (Figure 7, Tables 8 to 10).

    Another `similarity` than cosine compares prefixes as they are.

    Means over the Q queries: top1, top5, top10: any right item in the first 1, 5, 10. P@k: right ones in the
    first k / k. mAP@k: the sum of P@i over right ranks i <= k / k. R@k: right ones in the first k / those in
    the whole database. macs: multiply-adds per query. index_bytes: of the database's float32 prefixes.
    A database of less than 10 has no top10, of less than 5 no top5. Queries that are the database itself find
    others than themselves; R@k is then the mean over those of a class with others.
    Of equally near items the right ones come last.

    Raises:
        UserError: Without a database, when k exceeds N, or when a query's label is not in the database.
    """
    database = labelled(queries, database)
    same = same_rows(queries, database)
    setting = setting_of(similarity)
    classes, counts = np.unique(database.labels, return_counts=True)
    total = counts[np.searchsorted(classes, queries.labels)] - same  # of each query's class
    first = [count for count in FIRST if count <= max(1, len(database) - same)]
    for dim, found in neighbours(queries, database, dims, max(*k, *first), similarity).items():
        relevant = database.labels[found.positions] == queries.labels[:, None]
        values = {f"top{count}": ranking.hit(relevant, count) for count in first}
        for count in k:
            values[f"mAP@{count}"] = ranking.average_precision(relevant, count)
            values[f"P@{count}"] = ranking.precision(relevant, count)
            values[f"R@{count}"] = ranking.recall(relevant[total > 0], count, total[total > 0])
        means = {metric: per_query.mean() for metric, per_query in values.items() if len(per_query)}
        means["macs"] = cost.search_macs(len(database), [(dim, max(k))])
        means["index_bytes"] = cost.index_bytes(len(database), dim)
        yield from measured(dim, means, setting)
