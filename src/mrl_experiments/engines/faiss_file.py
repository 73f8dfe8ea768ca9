"""target=faiss: one index that takes vectors as they are, with a shortlist by prefixes inside."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.adaptive.retrieval.spec import lists_of, probes_of
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.engines.engine import Filter, Ids, Shape, Vectors
from mrl_experiments.engines.file_folder import FileFolder
from mrl_experiments.engines.payload import arrow_array
from mrl_experiments.engines.source import CLASS, KEY, LABEL, Block, Source
from mrl_experiments.errors import UserError, said
from mrl_experiments.files import atomic_path, read_object, write_json
from mrl_experiments.search.same_rows import evenly_spaced

NOTE = "export.json"
INDEX, PAYLOAD = "vectors.faiss", "payload.parquet"
SHORTLIST = 20  # times k: the length of a shortlist, unless a search says otherwise
TRAINED = 64  # vectors that each list of an IVF index is trained on


class FaissFile(FileFolder):
    """A folder with `vectors.faiss`, its labels and ids beside it, and what else belongs to each row.

    The index divides by norms where similarity is the cosine (IndexPreTransform), finds a shortlist by the
    first dims, 8 bits each, and ranks it by whole vectors (IndexRefine). It is built in memory, and the
    file is written whole.
    """

    faults = (RuntimeError,)
    _index: Any = None

    def stored_in(self, folder: Path) -> Any:
        """Return what the note says; see `Engine.stored`."""
        path = folder / NOTE
        return read_object(path).get("shape", {}) if path.is_file() else {}

    def begin(self, source: Source, shape: Shape) -> None:
        """Begin an index in memory, trained on evenly spaced vectors."""
        super().begin(source, shape)
        self._index = new_index(shape)
        if not self._index.is_trained:
            rows = evenly_spaced(len(source), TRAINED * max(16, lists_of(shape.rows)))
            self._index.train(np.ascontiguousarray(source.vectors[rows], np.float32))
        _write_columns(source, self.hidden)

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of a range the index has."""
        return len(range(start, min(stop, self.index().ntotal)))

    def write(self, block: Block, shape: Shape, *, some: bool) -> None:
        """Add rows to the index in memory."""
        self._index.add(block.vectors)

    def finish(self, shape: Shape) -> bool:
        """Write the index, and give the folder its name."""
        if self.folder == self.hidden:
            with atomic_path(self.hidden / INDEX) as path:
                import_module("faiss").write_index(self._index, str(path))
            write_json(self.hidden / NOTE, {"shape": shape.stored()})
        return super().finish(shape)

    def index(self) -> Any:
        """Return the index, memory-mapped."""
        if self._index is None:
            faiss: Any = import_module("faiss")
            self._index = faiss.read_index(str(self.out / INDEX), faiss.IO_FLAG_MMAP_IFC)
        return self._index

    def find(self, shape: Shape, queries: Vectors, k: int, shortlist: int | None, where: Filter) -> Ids:
        """Return the ids (Q, k) of the nearest; see `Engine.find`."""
        faiss: Any = import_module("faiss")
        if where:
            raise UserError("where= with target=faiss", expected="an engine with columns, such as pgvector")
        whole = self.index()
        inner = faiss.downcast_index(whole.index) if isinstance(whole, faiss.IndexPreTransform) else whole
        if shape.index == "exact":
            return np.asarray(whole.search(queries, k)[1])
        if shortlist is None:  # all whole vectors, without the shortlist
            asked = queries if whole is inner else unit_prefixes(queries, shape.width)
            return np.asarray(inner.refine_index.search(asked, k)[1])
        base = _base_parameters(shape, shortlist)
        parameters = faiss.IndexRefineSearchParameters(k_factor=shortlist / k, base_index_params=base)
        if whole is not inner:
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        return np.asarray(whole.search(queries, k, params=parameters)[1])

    def close(self) -> None:
        """Let go of the index."""
        self._index = None


def new_index(shape: Shape) -> Any:
    """Return an index without vectors, not yet trained.

    Raises:
        UserError: For what FAISS cannot hold.
    """
    faiss: Any = import_module("faiss")  # whose stubs know few of its classes
    by_norm = shape.similarity == "cosine"
    metric = faiss.METRIC_L2 if shape.similarity == "l2" else faiss.METRIC_INNER_PRODUCT
    whole: Any = faiss.IndexFlat(shape.width, metric)
    whole.codes.resize(shape.rows * whole.code_size)  # memory for all, or each range would copy those before
    whole.codes.resize(0)
    if shape.index != "exact":
        codes = "HNSW32,SQ8" if shape.index == "hnsw" else f"IVF{lists_of(shape.rows)},SQ8"
        short = faiss.index_factory(shape.prefix, codes, metric)
        if shape.index == "ivf":
            short.nprobe = probes_of(shape.rows, 10 * SHORTLIST)
        base = faiss.IndexPreTransform(short)
        if by_norm:
            base.prepend_transform(faiss.NormalizationTransform(shape.prefix, 2.0))
        base.prepend_transform(faiss.RemapDimensionsTransform(shape.width, shape.prefix, False))
        whole = faiss.IndexRefine(base, whole)
        whole.k_factor = SHORTLIST
    return (
        faiss.IndexPreTransform(faiss.NormalizationTransform(shape.width, 2.0), whole) if by_norm else whole
    )


def _base_parameters(shape: Shape, shortlist: int) -> Any:
    faiss: Any = import_module("faiss")
    if shape.index == "hnsw":
        inner = faiss.SearchParametersHNSW(efSearch=max(64, shortlist))
    else:
        inner = faiss.SearchParametersIVF(nprobe=probes_of(shape.rows, shortlist))
    return faiss.SearchParametersPreTransform(index_params=inner)


def _write_columns(source: Source, folder: Path) -> None:
    """Write labels and ids where evaluate.py looks for them, and all columns as a table."""
    stem = Path(INDEX).stem
    for name, beside in ((LABEL, "labels"), (CLASS, "labels"), (KEY, "ids")):
        path = folder / f"{stem}.{beside}.npy"
        if name in source.columns and not path.exists():
            np.save(path, np.array(source.columns[name].listed()))
    if source.columns:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(f"the columns beside {INDEX} need pyarrow: {said(error)}") from error
        table = {name: arrow_array(column) for name, column in source.columns.items()}
        parquet.write_table(pyarrow.table({"id": np.arange(len(source)), **table}), folder / PAYLOAD)
