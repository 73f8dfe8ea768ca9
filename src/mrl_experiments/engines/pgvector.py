"""target=pgvector: a table of PostgreSQL with one column of vectors and an index over their prefixes."""

import hashlib
import json
from contextlib import suppress
from typing import Any

import numpy as np

from mrl_experiments.adaptive.retrieval.spec import lists_of, probes_of
from mrl_experiments.engines.engine import (
    MARK,
    Engine,
    Filter,
    Shape,
    Vectors,
    needed,
)
from mrl_experiments.engines.payload import FLAG, FLOAT, INT, TEXT
from mrl_experiments.engines.source import Block, Source
from mrl_experiments.errors import UserError

LONGEST = 63  # bytes of a name
TIMEOUT = 10  # seconds until a server counts as unreachable
OPERATORS = {"cosine": ("<=>", "cosine"), "inner_product": ("<#>", "ip"), "l2": ("<->", "l2")}
TYPES = {INT: "int8", FLOAT: "float8", TEXT: "text", FLAG: "bool"}
MOST_CANDIDATES = 1000  # the largest hnsw.ef_search
LARGEST = {"vector": 2000, "halfvec": 4000, "bit": 64000}  # dims of an index


class PgVector(Engine):
    """A table (id, vector, columns); its comment says what it holds.

    A shortlist is found by an index on an expression, `subvector(vector, 1, 64)`, so nothing is stored twice.
    """

    def __init__(self, uri: str, collection: str) -> None:
        self.psycopg = needed("psycopg", "pgvector")
        self.sql = needed("psycopg.sql", "pgvector")
        if "://" not in uri and "=" not in uri:  # libpq would repeat it, which may be a password
            raise UserError(
                f"table {collection}: uri= is no address", expected="postgresql://user@host/database"
            )
        self.table, self.place = collection, f"table {collection}"
        self.faults = (self.psycopg.Error,)
        self._tuned: tuple[int, str] | None = None
        with self.explained():
            self.connection = self.psycopg.connect(uri, autocommit=True, connect_timeout=TIMEOUT)
            self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            needed("pgvector.psycopg", "pgvector").register_vector(self.connection)

    def stored(self) -> Any:
        """Return what the table's comment says; see `Engine.stored`."""
        found = self.connection.execute(
            "SELECT obj_description(to_regclass(%s), 'pg_class'), to_regclass(%s)",
            [self._name.as_string(self.connection)] * 2,
        ).fetchone()
        if found is None or found[1] is None:
            return None
        with suppress(ValueError, AttributeError):
            return json.loads(found[0] or "{}").get(MARK, "")
        return ""

    @property
    def _name(self) -> Any:
        return self.sql.Identifier(self.table)

    def create(self, source: Source, shape: Shape) -> None:
        """Make the table.

        Raises:
            UserError: If no index can hold so many dims.
        """
        kind = _kind(shape)
        most = LARGEST["bit" if shape.binary else kind]
        if shape.index != "exact" and shape.prefix > most:
            raise UserError(
                f"prefix={shape.prefix}", expected=f"at most {most} dims", remedy="half=true or binary=true"
            )
        columns = [
            self.sql.SQL("{} {}").format(self.sql.Identifier(name), self.sql.SQL(TYPES[kind]))
            for name, kind in shape.columns.items()
        ]
        parts = [self.sql.SQL(f"id int8 PRIMARY KEY, vector {kind}({shape.width}) NOT NULL"), *columns]
        with self.connection.transaction():
            self._run("CREATE TABLE {table} ({parts})", parts=self.sql.SQL(", ").join(parts))
            self._run(
                "COMMENT ON TABLE {table} IS {told}",
                told=self.sql.Literal(json.dumps({MARK: shape.stored()})),
            )

    def _run(self, text: str, **parts: Any) -> Any:
        return self.connection.execute(self.sql.SQL(text).format(table=self._name, **parts))

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of a range there are."""
        query = self.sql.SQL("SELECT count(*) FROM {} WHERE id >= %s AND id < %s").format(self._name)
        return int(self.connection.execute(query, [start, stop]).fetchone()[0])

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a range by COPY, in one transaction."""
        vectors: Any = block.vectors
        if shape.half:
            half = needed("pgvector", "pgvector").HalfVector
            vectors = [half(vector) for vector in block.vectors]
        columns = [column.listed() for column in block.columns.values()]
        names = [self.sql.Identifier(name) for name in ("id", "vector", *block.columns)]
        text = self.sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)")
        query = text.format(self._name, self.sql.SQL(", ").join(names))
        with self.connection.transaction():
            if some:
                ids = self.sql.SQL("DELETE FROM {} WHERE id >= %s AND id < %s").format(self._name)
                self.connection.execute(ids, [block.start, block.start + len(block.vectors)])
            with self.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types(
                    ["int8", _kind(shape), *(TYPES[shape.columns[name]] for name in block.columns)]
                )
                for row in zip(block.ids.tolist(), vectors, *columns, strict=True):
                    copy.write_row(row)

    def finish(self, shape: Shape) -> bool:
        """Build the index over prefixes, unless it is there."""
        if shape.index == "exact":
            return False
        name = f"{self.table}_prefix_{shape.index}"
        if len(name) > LONGEST:  # a name that is cut could be that of another table's index
            digest = hashlib.blake2b(self.table.encode(), digest_size=4).hexdigest()
            name = f"{self.table[:40]}_{digest}_prefix_{shape.index[:4]}"
        there = self.connection.execute("SELECT to_regclass(%s)", [f'"{name}"']).fetchone()[0]
        if there is not None:
            return False
        method, options = (
            ("hnsw", "") if shape.index == "hnsw" else ("ivfflat", f" WITH (lists = {lists_of(shape.rows)})")
        )
        print(f"{self.place}: building the index over the first {shape.prefix} dims", flush=True)
        kind = "bit_hamming" if shape.binary else f"{_kind(shape)}_{OPERATORS[shape.similarity][1]}"
        text = f"CREATE INDEX {{name}} ON {{table}} USING {method} (({_prefix(shape)}) {kind}_ops){options}"
        self._run(text, name=self.sql.Identifier(name))
        self._run("ANALYZE {table}")
        return True

    def statement(self, shape: Shape, where: Filter | None = None, *, two_stages: bool = True) -> str:
        """Return the SQL of a search; its parameters are q, k, where_<column>, of two stages shortlist."""
        kind, operator = _kind(shape), OPERATORS[shape.similarity][0]
        query = f"(%(q)s)::{kind}({shape.width})"
        source = f"{self._name.as_string(self.connection)}{self._filter(where)}"
        if two_stages:
            near = "<~>" if shape.binary else operator
            order = f"{_prefix(shape)} {near} {_prefix(shape, query)}"
            source = f"(SELECT id, vector FROM {source} ORDER BY {order} LIMIT %(shortlist)s) AS shortlist"
        return f"SELECT id FROM {source} ORDER BY vector {operator} {query} LIMIT %(k)s"

    def _filter(self, where: Filter | None) -> str:
        parts = [
            f"{self.sql.Identifier(name).as_string(self.connection)} = %(where_{name})s"
            for name in where or {}
        ]
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def find(
        self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter
    ) -> list[list[int]]:
        """Return the ids of the nearest, by one statement for each query; see `Engine.find`."""
        given = {"k": k, "shortlist": shortlist, **{f"where_{key}": v for key, v in where.items()}}
        text = self.statement(shape, where, two_stages=shortlist is not None)
        if shortlist is not None:
            self._tune(shape, shortlist)
        vector = needed("pgvector", "pgvector").HalfVector if shape.half else np.asarray
        return [
            [row[0] for row in self.connection.execute(text, {**given, "q": vector(query)})]
            for query in queries
        ]

    def _tune(self, shape: Shape, shortlist: int) -> None:
        """Let the index find a whole shortlist, and go on where filters leave out too much (pgvector 0.8)."""
        if self._tuned == (shortlist, shape.index):
            return
        settings: dict[str, Any] = {"hnsw.ef_search": min(MOST_CANDIDATES, max(40, shortlist))}
        settings |= {"hnsw.iterative_scan": "strict_order", "ivfflat.iterative_scan": "relaxed_order"}
        settings |= {"ivfflat.probes": probes_of(shape.rows, shortlist)}
        for name, value in settings.items():
            self.connection.execute("SELECT set_config(%s, %s, false)", [name, str(value)])
        self._tuned = (shortlist, shape.index)

    def close(self) -> None:
        """End the connection."""
        self.connection.close()


def _kind(shape: Shape) -> str:
    return "halfvec" if shape.half else "vector"


def _prefix(shape: Shape, of: str = "vector") -> str:
    """Return the expression that is indexed, of the column or of a query."""
    first = f"subvector({of}, 1, {shape.prefix})::{_kind(shape)}({shape.prefix})"
    return f"binary_quantize({first})::bit({shape.prefix})" if shape.binary else first
