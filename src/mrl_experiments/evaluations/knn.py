"""k-NN classification: the nearest neighbours in the database vote on the label of each query."""

from collections.abc import Iterator, Sequence

from mrl_experiments.directions import setting_of
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.votes import class_rank
from mrl_experiments.results import Measurement
from mrl_experiments.search.database import labelled, neighbours


def knn(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    k: Sequence[int],
    similarity: str = "cosine",
) -> Iterator[Measurement]:
    """Yield the accuracy of k nearest neighbours for each k, on unit-norm prefixes (Figure 3, Table 2).

    Another `similarity` than cosine compares prefixes as they are.

    top1: queries whose label has most votes / Q. top5 (k >= 5): queries whose label is among the five with
    most votes / Q. Of labels with equal votes the one with the nearer neighbour leads; those that are equal
    in both, as two equally near neighbours are for k=1, are tied, which counts against the query's label.

    Raises:
        UserError: Without a database, when k exceeds N, or when a query's label is not in the database.
    """
    database = labelled(queries, database)
    near = neighbours(queries, database, dims, max(k), similarity)
    for dim, found in tracked(near.items(), "counting votes", len(near)):
        voters = database.labels[found.positions]
        for count in k:
            rank = class_rank(voters[:, :count], found.similarities[:, :count], queries.labels)
            yield Measurement(dim, "top1", float((rank == 0).mean()), {"k": count, **setting_of(similarity)})
            if count >= 5:
                yield Measurement(
                    dim, "top5", float((rank < 5).mean()), {"k": count, **setting_of(similarity)}
                )
