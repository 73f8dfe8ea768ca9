"""target=lancedb: a table in a folder, or of LanceDB's cloud."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.engines.engine import MARK, Filter, Ids, Shape, TwoStepEngine, Vectors, needed, shown
from mrl_experiments.engines.payload import arrow_array, arrow_type, arrow_vectors
from mrl_experiments.engines.source import Block, Source
from mrl_experiments.locks import acquire

METRICS = {"cosine": "cosine", "inner_product": "dot", "l2": "l2"}


class LanceDb(TwoStepEngine):
    """A table (id, vector, prefix, columns); its schema says what it holds."""

    def __init__(self, uri: str, collection: str) -> None:
        self.lancedb = needed("lancedb", "lancedb")
        self.name, self.place = collection, f"table {collection} in {shown(uri)}"
        self._lock = None if "://" in uri else Path(uri).expanduser() / f".{collection}.lock"
        self.faults = (RuntimeError, ValueError, OSError)  # LanceDB has no errors of its own
        self._table: Any = None
        with self.explained():
            self.database = self.lancedb.connect(uri)

    @property
    def table(self) -> Any:
        """The table, opened."""
        if self._table is None:
            self._table = self.database.open_table(self.name)
        return self._table

    def stored(self) -> Any:
        """Return what the table's schema says; see `Engine.stored`."""
        if self.name not in self.database.table_names(limit=1_000_000):
            return None
        return (self.table.schema.metadata or {}).get(MARK.encode(), b"")

    def create(self, source: Source, shape: Shape) -> None:
        """Make the table."""
        import pyarrow

        number = pyarrow.float16() if shape.half else pyarrow.float32()
        fields = [pyarrow.field("id", pyarrow.int64())]
        fields += [pyarrow.field("vector", pyarrow.list_(number, shape.width))]
        fields += [pyarrow.field("prefix", pyarrow.list_(number, shape.prefix))]
        fields += [pyarrow.field(name, arrow_type(kind)) for name, kind in shape.columns.items()]
        schema = pyarrow.schema(fields, metadata={MARK: json.dumps(shape.stored())})
        self._table = self.database.create_table(self.name, schema=schema)

    def lock(self) -> AbstractContextManager[Any]:
        """Hold a table in a folder: it takes ids twice, so one command at a time writes."""
        return nullcontext() if self._lock is None else acquire(self._lock, f"writes {self.place}")

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of a range there are."""
        return int(self.table.count_rows(f"id >= {start} AND id < {stop}"))

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a range; a version of the table holds all of it or nothing."""
        import pyarrow

        if some:
            self.table.delete(f"id >= {block.start} AND id < {block.start + len(block.vectors)}")
        columns = {
            "id": pyarrow.array(block.ids),
            "vector": arrow_vectors(block.vectors, shape.half),
            "prefix": arrow_vectors(block.vectors[:, : shape.prefix], shape.half),
            **{name: arrow_array(column) for name, column in block.columns.items()},
        }
        self.table.add(pyarrow.table(columns))

    def finish(self, shape: Shape) -> bool:
        """Build the index over prefixes, unless it is there."""
        if shape.index == "exact" or any("prefix" in one.columns for one in self.table.list_indices()):
            return False
        print(f"{self.place}: building the index over the first {shape.prefix} dims", flush=True)
        kinds = self.lancedb.index
        kind = kinds.HnswSq if shape.index == "hnsw" else kinds.IvfFlat
        self.table.create_index("prefix", config=kind(distance_type=METRICS[shape.similarity]))
        return True

    def nearest(
        self, shape: Shape, queries: Vectors, field: str, k: int, where: Filter, among: Ids | None = None
    ) -> list[list[int]]:
        """Return the ids of the nearest by a field; see `TwoStepEngine.nearest`."""
        tests = [f"{name} = {_literal(value)}" for name, value in where.items()]
        tests += [] if among is None else [f"id IN ({', '.join(map(str, among.tolist()))})"]
        return [
            self._one(query, field, k, " AND ".join(tests), METRICS[shape.similarity]) for query in queries
        ]

    def _one(self, query: NDArray[np.float32], field: str, k: int, test: str, metric: str) -> list[int]:
        search = self.table.search(query, vector_column_name=field).distance_type(metric).limit(k)
        search = search.select(["id", "_distance"])
        search = search.bypass_vector_index() if field == "vector" else search.ef(max(64, k)).nprobes(20)
        if test:
            search = search.where(test, prefilter=True)
        ids: list[int] = search.to_arrow()["id"].to_pylist()
        return ids

    def close(self) -> None:
        """Let go of the table."""
        self._table = None


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
