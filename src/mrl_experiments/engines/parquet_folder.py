"""target=parquet: a folder of Parquet files, one for each range of ids."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mrl_experiments.engines.engine import MARK, Filter, Ids, Shape, Vectors, needed
from mrl_experiments.engines.file_folder import FileFolder
from mrl_experiments.engines.payload import arrow_array, arrow_vectors
from mrl_experiments.engines.source import Block, Source
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, remove_leftovers

ROW_GROUP = 8192


class ParquetFolder(FileFolder):
    """A folder of parts `<first id>.parquet` with columns id, vector and those of the source.

    Prefixes are no column: they are the first values of each vector. Parts are written into a hidden folder,
    which gets its name when all are there.
    """

    def __init__(self, uri: str, collection: str) -> None:
        super().__init__(uri, collection)
        self.parquet = needed("pyarrow.parquet", "parquet")
        self.faults = (needed("pyarrow", "parquet").ArrowException,)

    def stored_in(self, folder: Path) -> Any:
        """Return what the first part says; see `Engine.stored`."""
        first = next(iter(sorted(folder.glob("*.parquet"))), None) if folder.is_dir() else None
        metadata = self.parquet.read_schema(first).metadata if first else None
        return (metadata or {}).get(MARK.encode(), b"")

    def begin(self, source: Source, shape: Shape) -> None:
        """Make the hidden folder, or go on with one of the same content."""
        same = False
        with suppress(UserError, *self.faults):
            there = Shape.read(self.stored_in(self.hidden), self.place, self.other)
            same = not shape.differing(there)
        if not same:
            super().begin(source, shape)
        remove_leftovers(self.hidden)
        wanted = {start: stop - start for start, stop in shape.ranges()}
        for first, rows in self._parts().items():  # of other ranges, as another version may have written them
            if wanted.get(first) != rows:
                self._path(first).unlink()

    def count(self, start: int, stop: int) -> int:
        """Return how many rows the parts have that begin in a range."""
        return sum(rows for first, rows in self._parts().items() if start <= first < stop)

    def _parts(self) -> dict[int, int]:
        """Return the number of rows of each part by its first id."""
        paths = [path for path in self.folder.glob("*.parquet") if path.stem.isdecimal()]
        return {int(path.stem): int(self.parquet.read_metadata(path).num_rows) for path in paths}

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:012}.parquet"

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Write a part, whole or not at all."""
        import pyarrow

        columns = {
            "id": pyarrow.array(block.ids),
            "vector": arrow_vectors(block.vectors, shape.half),
            **{name: arrow_array(column) for name, column in block.columns.items()},
        }
        metadata = {MARK: json.dumps(shape.stored())}
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        others = [name for name in columns if name != "vector"]
        with atomic_path(self._path(block.start)) as path:
            # Numbers of vectors repeat too seldom for a dictionary, and do not shrink by compression.
            self.parquet.write_table(
                table, path, row_group_size=ROW_GROUP, compression="none", use_dictionary=[*block.columns],
                write_statistics=others,
            )  # fmt: skip

    def find(self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter) -> Ids:
        """Refuse: files do not search.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "target=parquet does not search", expected="faiss, pgvector, milvus, lancedb or qdrant"
        )
