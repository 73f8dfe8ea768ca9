"""target=qdrant: a collection with two named vectors, searched by nested prefetch."""

import json
from typing import Any

from mrl_experiments.engines.engine import MARK, Engine, Filter, Shape, Vectors, needed, shown
from mrl_experiments.engines.source import Block, Source

TIMEOUT = 10
ROWS = 1024  # in a message
DISTANCES = {"cosine": "COSINE", "inner_product": "DOT", "l2": "EUCLID"}


class Qdrant(Engine):
    """A collection with vectors `vector` and `prefix`; its metadata say what it holds.

    A server builds its index by itself.
    A folder is searched by the client's local mode, in Python, without an index: for trying queries out.
    """

    def __init__(self, uri: str, collection: str) -> None:
        client = needed("qdrant_client", "qdrant")
        self.models = client.models
        self.collection, self.place = collection, f"collection {collection} of {shown(uri)}"
        exceptions = needed("qdrant_client.http.exceptions", "qdrant")
        self.faults = (exceptions.ApiException, RuntimeError, ValueError, OSError)
        with self.explained():
            where = {"url": uri} if "://" in uri else {"path": uri}
            self.client = client.QdrantClient(**where, timeout=TIMEOUT)

    def stored(self) -> Any:
        """Return what the collection's metadata say; see `Engine.stored`."""
        if not self.client.collection_exists(self.collection):
            return None
        return (self.client.get_collection(self.collection).config.metadata or {}).get(MARK, "")

    def create(self, source: Source, shape: Shape) -> None:
        """Make the collection; whole vectors get no index."""
        models = self.models
        distance = models.Distance[DISTANCES[shape.similarity]]
        kind = models.Datatype.FLOAT16 if shape.half else None

        def vectors(size: int, links: int | None) -> Any:
            graph = None if links is None else models.HnswConfigDiff(m=links)
            return models.VectorParams(size=size, distance=distance, datatype=kind, hnsw_config=graph)

        self.client.create_collection(
            self.collection,
            vectors_config={
                "vector": vectors(shape.width, 0),
                "prefix": vectors(shape.prefix, 0 if shape.index == "exact" else None),
            },
            metadata={MARK: json.dumps(shape.stored())},
        )

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of a range there are."""
        total = 0
        for first in range(start, stop, 10 * ROWS):
            ids = list(range(first, min(first + 10 * ROWS, stop)))
            among = self.models.Filter(must=[self.models.HasIdCondition(has_id=ids)])
            total += self.client.count(self.collection, count_filter=among, exact=True).count
        return total

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a range; rows that are there are replaced."""
        names, columns = [*block.columns], [column.listed() for column in block.columns.values()]
        values = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for first in range(0, len(block.vectors), ROWS):
            part = slice(first, first + ROWS)
            vectors = block.vectors[part]
            named = {"vector": vectors.tolist(), "prefix": vectors[:, : shape.prefix].tolist()}
            ids, payloads = block.ids[part].tolist(), values[part] or None
            self.client.upsert(
                self.collection, self.models.Batch(ids=ids, vectors=named, payloads=payloads), wait=True
            )

    def find(
        self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter
    ) -> list[list[int]]:
        """Return the ids of the nearest; the shortlist is a prefetch. See `Engine.find`."""
        models = self.models
        tests = [self._equal(name, value) for name, value in where.items()]
        keep = models.Filter(must=tests) if tests else None
        found = []
        for query in queries:
            first = None
            if shortlist is not None:
                prefix = query[: shape.prefix].tolist()
                first = models.Prefetch(query=prefix, using="prefix", limit=shortlist, filter=keep)
            exact = models.SearchParams(exact=True) if first is None else None
            answer = self.client.query_points(
                self.collection, query=query.tolist(), using="vector", prefetch=first, limit=k,
                query_filter=None if first else keep, search_params=exact, with_payload=False,
            )  # fmt: skip
            found.append([point.id for point in answer.points])
        return found

    def _equal(self, name: str, value: Any) -> Any:
        models = self.models
        if isinstance(value, float):  # which only a range takes
            return models.FieldCondition(key=name, range=models.Range(gte=value, lte=value))
        return models.FieldCondition(key=name, match=models.MatchValue(value=value))

    def close(self) -> None:
        """End the connection."""
        self.client.close()
