"""target=milvus: a collection in a file (milvus-lite), on a server or on a cluster, by the same words."""

import json
import logging
import os
from typing import Any

import numpy as np

from mrl_experiments.adaptive.retrieval.spec import lists_of, probes_of
from mrl_experiments.engines.engine import (
    MARK,
    Filter,
    Ids,
    Shape,
    TwoStepEngine,
    Vectors,
    needed,
    shown,
)
from mrl_experiments.engines.payload import FLAG, FLOAT, INT, TEXT
from mrl_experiments.engines.source import Block, Source

TIMEOUT = 10.0  # seconds until a server counts as unreachable
METRICS = {"cosine": "COSINE", "inner_product": "IP", "l2": "L2"}
LONGEST = 65_535  # bytes of a text
ROWS = 4096  # in a message, which may have 64 MB


class Milvus(TwoStepEngine):
    """A collection (id, vector, prefix, columns); its properties say what it holds.

    Prefixes are a field of their own, with the index; whole vectors are compared without one.
    """

    def __init__(self, uri: str, collection: str) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # which warns of how pymilvus and milvus-lite ping
        self.pymilvus = needed("pymilvus", "milvus")
        if "://" not in uri:
            needed("milvus_lite", "milvus")
        for name in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # which print a traceback for each error
        self.collection, self.place = collection, f"collection {collection} of {shown(uri)}"
        self.faults = (self.pymilvus.MilvusException, needed("grpc", "milvus").RpcError)
        self._loaded = self._wrote = False
        with self.explained():
            token = os.environ.get("MILVUS_TOKEN", "")
            self.client = self.pymilvus.MilvusClient(uri, token=token, timeout=TIMEOUT)

    def stored(self) -> Any:
        """Return what the collection's properties say; see `Engine.stored`."""
        if not self.client.has_collection(self.collection, timeout=TIMEOUT):
            return None
        return self.client.describe_collection(self.collection).get("properties", {}).get(MARK, "")

    def create(self, source: Source, shape: Shape) -> None:
        """Make the collection; its indexes come last."""
        kinds = self.pymilvus.DataType
        vector = kinds.FLOAT16_VECTOR if shape.half else kinds.FLOAT_VECTOR
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", vector, dim=shape.width)
        schema.add_field("prefix", vector, dim=shape.prefix)
        types = {INT: kinds.INT64, FLOAT: kinds.DOUBLE, TEXT: kinds.VARCHAR, FLAG: kinds.BOOL}
        for name, kind in shape.columns.items():
            length = {"max_length": LONGEST} if kind == TEXT else {}
            schema.add_field(name, types[kind], nullable=True, **length)
        properties = {MARK: json.dumps(shape.stored())}
        self.client.create_collection(
            self.collection, schema=schema, properties=properties, consistency_level="Strong"
        )

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of a range there are."""
        self._load()
        # milvus-lite makes an object of each row that a filter lets through; without one it counts ids.
        all_of_them = start <= 0 and stop >= self.required().rows
        text = "" if all_of_them else f"id >= {start} and id < {stop}"
        return int(self.client.query(self.collection, filter=text, output_fields=["count(*)"])[0]["count(*)"])

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a range; rows that are there are replaced."""
        kind = np.float16 if shape.half else np.float32
        names = ("id", "vector", "prefix", *block.columns)
        columns = [column.listed() for column in block.columns.values()]
        send = self.client.upsert if some else self.client.insert
        for first in range(0, len(block.vectors), ROWS):
            part = slice(first, first + ROWS)
            vectors = block.vectors[part].astype(kind, copy=False)
            prefixes = vectors[:, : shape.prefix]
            given = (block.ids[part].tolist(), vectors, prefixes, *(column[part] for column in columns))
            rows = [dict(zip(names, row, strict=True)) for row in zip(*given, strict=True)]
            send(self.collection, rows)
        self._wrote = True

    def finish(self, shape: Shape) -> bool:
        """Let all rows be written to disk, and build the indexes."""
        indexed = self._indexed()
        if indexed and not self._wrote:
            return False
        self.client.flush(self.collection)
        if not indexed:
            print(f"{self.place}: building the index over the first {shape.prefix} dims", flush=True)
            self._index(shape)
        return True

    def _indexed(self) -> bool:
        return {"vector", "prefix"} <= {*self.client.list_indexes(self.collection)}

    def _load(self) -> None:
        """Let the collection be asked, which needs indexes, and in each process that opens a file anew."""
        if self._loaded:
            return
        state = self.client.get_load_state(self.collection)["state"]
        if state != self.pymilvus.client.types.LoadState.Loaded:
            if self._indexed():
                self.client.load_collection(self.collection)
            else:
                self._index(self.required())
        self._loaded = True

    def _index(self, shape: Shape) -> None:
        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "exact": ("FLAT", {}),
            "hnsw": ("HNSW", {"M": 16, "efConstruction": 200}),
            "ivf": ("IVF_FLAT", {"nlist": lists_of(shape.rows)}),
        }
        wanted = self.client.prepare_index_params()
        for field, (kind, options) in (("vector", kinds["exact"]), ("prefix", kinds[shape.index])):
            metric = METRICS[shape.similarity]
            wanted.add_index(field, index_type=kind, metric_type=metric, params=options)
        self.client.create_index(self.collection, wanted)
        self.client.load_collection(self.collection)

    def nearest(
        self, shape: Shape, queries: Vectors, field: str, k: int, where: Filter, among: Ids | None = None
    ) -> list[list[int]]:
        """Return the ids of the nearest by a field; see `TwoStepEngine.nearest`."""
        self._load()
        tests = [f"{name} == {json.dumps(value, ensure_ascii=False)}" for name, value in where.items()]
        tests += [] if among is None else [f"id in {among.tolist()}"]
        options = {} if field == "vector" else {"ef": max(64, k), "nprobe": probes_of(shape.rows, k)}
        found = self.client.search(
            self.collection,
            list(queries.astype(np.float16) if shape.half else queries),
            anns_field=field,
            limit=k,
            filter=" and ".join(tests),
            output_fields=["id"],
            search_params={"metric_type": METRICS[shape.similarity], "params": options},
        )
        return [[hit["id"] for hit in hits] for hits in found]

    def close(self) -> None:
        """End the connection."""
        self.client.close()
