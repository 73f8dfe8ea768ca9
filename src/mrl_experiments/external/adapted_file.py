"""Files of vectors that an adaptor has mapped, each with the adaptor's digest, so that none are mixed."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.errors import UserError
from mrl_experiments.external.arrow_tables import (
    ARROW,
    EMBEDDINGS,
    PARQUET,
    named,
    open_arrow,
    require_pyarrow,
    schema_of,
)
from mrl_experiments.external.spool import Spool
from mrl_experiments.external.vector_file import read_matrix
from mrl_experiments.files import atomic_path, read_object, require_space, write_json

BLOCK = 65536  # rows at a time
KEY = "adaptor"  # under which a file keeps the digest
FORMS = (".npy", ".npz", ".safetensors", *PARQUET, *ARROW)


def write_adapted(
    adaptor: AdaptorFile, source: Path, out: Path, dim: int | None = None, *, queries: bool = False
) -> int:
    """Write the vectors of a file as an adaptor maps them, in the same order, and return how many they are.

    Other arrays and columns of a .npz file or of a table go along where both files are of one kind.

    Args:
        adaptor: The map.
        source: What `read_matrix` reads.
        out: Its suffix says the form: one of FORMS.
        dim: The first features that are written; None: all.
        queries: They are queries, which may have a map of their own.

    Raises:
        UserError: If the vectors are of another width, were mapped already, or a file cannot be read or
            written.
    """
    if out.suffix not in FORMS:
        raise UserError(f"out={out}", expected=f"a name in {', '.join(FORMS)}")
    if dim is not None and dim > adaptor.width:
        raise UserError(f"dim={dim}", expected=f"at most the adaptor's width {adaptor.width}")
    matrix = read_matrix(source)
    if before := adaptor_of(source):
        raise UserError(
            f"{source} holds vectors that adaptor {before} has mapped already",
            expected="vectors as the frozen model made them",
        )
    if matrix.shape[1] != adaptor.width:
        raise UserError(
            f"{source} has vectors of {matrix.shape[1]} dims",
            expected=f"{adaptor.width}, as the adaptor takes",
        )
    require_space(out.parent, 4 * len(matrix) * (dim or adaptor.width))
    spool = Spool(source)
    for start in range(0, len(matrix), BLOCK):
        block = np.asarray(matrix[start : start + BLOCK], np.float32)
        spool.add(adaptor.apply(block, queries=queries)[:, :dim])
    with atomic_path(out) as temporary:
        _write(temporary, out.suffix, spool.result(), adaptor.digest, source)
    if out.suffix == ".npy":
        write_json(beside(out), {KEY: adaptor.digest})
    return len(matrix)


def beside(path: Path) -> Path:
    """Return where the digest of a .npy file lies, which has no place for it."""
    return path.with_name(f"{path.name}.{KEY}.json")


def adaptor_of(path: Path) -> str | None:
    """Return the digest of the adaptor that has mapped the vectors of a file; None: none has."""
    if path.suffix == ".npy":
        return read_object(beside(path)).get(KEY) if beside(path).exists() else None
    if not path.is_file():
        return None
    if path.suffix == ".npz" and zipfile.is_zipfile(path):
        with np.load(path) as arrays:
            return str(arrays[KEY]) if KEY in arrays.files else None
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size)))
        return header.get("__metadata__", {}).get(KEY)
    if path.suffix not in (*PARQUET, *ARROW):
        return None
    require_pyarrow(path)
    digest = (schema_of(path).metadata or {}).get(KEY.encode())
    return None if digest is None else digest.decode()


def refuse_mixed(paths: Sequence[Path]) -> None:
    """Raise UserError where the vectors of some files were not all mapped by the same adaptor."""
    digests = {path: adaptor_of(path) for path in paths}
    if len({*digests.values()}) > 1:
        shown = ", ".join(f"{path}: {digest or 'none'}" for path, digest in digests.items())
        raise UserError(
            f"vectors of different adaptors are not comparable ({shown})",
            expected="files of one adaptor, or all as the frozen model made them",
            remedy="map them all with one: embed.py run=<name> data=vectors data.base=<file> out=<file>",
        )


def _write(path: Path, form: str, vectors: NDArray[np.float32], digest: str, source: Path) -> None:
    if form == ".npy":
        with path.open("wb") as file:
            np.save(file, vectors)
    elif form == ".npz":
        _write_npz(path, vectors, digest, source)
    elif form == ".safetensors":
        from safetensors.numpy import save_file

        save_file({EMBEDDINGS[0]: np.ascontiguousarray(vectors)}, path, metadata={KEY: digest})
    else:
        _write_table(path, form, vectors, digest, source)


def _write_npz(path: Path, vectors: NDArray[np.float32], digest: str, source: Path) -> None:
    arrays: dict[str, Any] = {}
    name = EMBEDDINGS[0]
    if source.suffix == ".npz":
        with np.load(source) as before:
            name = named(before.files, EMBEDDINGS, source)
            arrays = {key: before[key] for key in before.files if key != name}
    with path.open("wb") as file:
        np.savez(file, **{**arrays, name: vectors, KEY: np.array(digest)})


def _write_table(path: Path, form: str, vectors: NDArray[np.float32], digest: str, source: Path) -> None:
    require_pyarrow(path)
    import pyarrow
    from pyarrow import feather, parquet

    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    if source.is_file() and source.suffix in (*PARQUET, *ARROW):
        table = parquet.read_table(source) if source.suffix in PARQUET else open_arrow(source)
        place = table.column_names.index(named(table.column_names, EMBEDDINGS, source))
        table = table.set_column(place, table.column_names[place], column)
    else:
        table = pyarrow.table({EMBEDDINGS[0]: column})
    table = table.replace_schema_metadata({KEY: digest})
    if form in PARQUET:
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, str(path), compression="uncompressed")
