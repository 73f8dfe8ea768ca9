"""target=parquet: a folder of Parquet files, one for each range of ids."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.engines.engine import MARK, Engine, Filter, Ids, Shape, needed
from mrl_experiments.engines.payload import arrow_array, arrow_vectors
from mrl_experiments.engines.source import Block, Source
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, explain_os_errors, remove_leftovers, require_space
from mrl_experiments.locks import acquire

ROW_GROUP = 8192


class ParquetFolder(Engine):
    """A folder of parts `<first id>.parquet` with columns id, vector and those of the source.

    Prefixes are no column: they are the first values of each vector. Parts are written into a hidden folder,
    which gets its name when all are there.
    """

    def __init__(self, uri: str, collection: str) -> None:
        self.parquet = needed("pyarrow.parquet", "parquet")
        self.out = Path(uri)
        self.place = str(self.out)
        self.hidden = self.out.with_name(f".{self.out.name[:200]}.part")
        self.folder = self.out

    @property
    def faults(self) -> tuple[type[BaseException], ...]:
        """What pyarrow raises."""
        return (needed("pyarrow", "parquet").ArrowException,)

    def shape(self) -> Shape | None:
        """Return what the folder holds; see `Engine.shape`."""
        if not os.path.lexists(self.out) or (self.out.is_dir() and not any(self.out.iterdir())):
            return None
        return self._shape(self.out)

    def _shape(self, folder: Path) -> Shape:
        first = next(iter(sorted(folder.glob("*.parquet"))), None) if folder.is_dir() else None
        metadata = self.parquet.read_schema(first).metadata if first else None
        stored = (metadata or {}).get(MARK.encode())
        return Shape.read(None if stored is None else json.loads(stored), self.place)

    def load(self, source: Source, shape: Shape, *, overwrite: bool = False) -> bool:
        """Write a source; see `Engine.load`. An unfinished folder of the same content is gone on with."""
        with (
            acquire(self.out.parent / f".{self.out.name[:200]}.lock", f"writes {self.out}"),
            self.explained(),
        ):
            there = self.shape()
            if there is not None and (different := shape.differing(there)):
                if not overwrite:
                    raise UserError(
                        f"{self.out} is there with {'; '.join(different)}",
                        expected="the same",
                        remedy="choose another: uri=<folder>; or replace it: overwrite=true",
                    )
                there = None
            if there is None:
                self.create(shape)
            wrote = self._write_missing(source, shape)
            return self.finish(shape) or wrote

    def create(self, shape: Shape) -> None:
        """Make the hidden folder, or go on with one of the same content."""
        self.folder = self.hidden
        with explain_os_errors(self.hidden):
            try:
                same = self.hidden.exists() and not shape.differing(self._shape(self.hidden))
            except (UserError, *self.faults):
                same = False
            if not same:
                shutil.rmtree(self.hidden, ignore_errors=True)
            self.hidden.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.hidden)
        require_space(self.hidden, shape.rows * shape.width * (2 if shape.half else 4))

    def count(self, start: int, stop: int) -> int:
        """Return how many rows the parts have that begin in a range."""
        paths = [path for path in self.folder.glob("*.parquet") if path.stem.isdecimal()]
        parts = [path for path in paths if start <= int(path.stem) < stop]
        return sum(int(self.parquet.read_metadata(path).num_rows) for path in parts)

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
        with atomic_path(self.folder / f"{block.start:012}.parquet") as path:
            # Numbers of vectors repeat too seldom for a dictionary, and do not shrink by compression.
            self.parquet.write_table(
                table, path, row_group_size=ROW_GROUP, compression="none", use_dictionary=others,
                write_statistics=others,
            )  # fmt: skip

    def finish(self, shape: Shape) -> bool:
        """Give the folder its name."""
        if self.folder == self.out:
            return False
        with explain_os_errors(self.out):
            old = self.hidden.with_name(f"{self.hidden.name}.old")
            if self.out.exists():
                self.out.rename(old)
            self.hidden.rename(self.out)
            shutil.rmtree(old, ignore_errors=True)
        self.folder = self.out
        return True

    def search(
        self, queries: NDArray[np.float32], k: int, shortlist: int | None = None, where: Filter | None = None
    ) -> Ids:
        """Refuse: files do not search.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "target=parquet does not search", expected="faiss, pgvector, milvus, lancedb or qdrant"
        )

    def close(self) -> None:
        """Do nothing: no file is open."""
