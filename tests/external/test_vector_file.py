"""Files of embeddings: what is read, and what is refused."""

import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from safetensors.torch import save_file

from mrl_experiments.errors import UserError
from mrl_experiments.external import arrow_tables
from mrl_experiments.external.vector_file import READERS, read_vectors

FEATURES = np.arange(12, dtype=np.float64).reshape(4, 3) + 1
LABELS = np.array([3, 1, 1, 2])


def save_npy(folder, features=FEATURES, labels=LABELS):
    np.save(folder / "x.npy", features)
    np.save(folder / "x.labels.npy", labels)
    return folder / "x.npy"


def save_npz(folder, **arrays):
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def test_npy_is_read_with_the_labels_beside_it(tmp_path):
    found = read_vectors(save_npy(tmp_path))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert isinstance(found.features, np.memmap)  # a large file must not fill the memory
    assert [path.name for path in found.files] == ["x.npy", "x.labels.npy"]


@pytest.mark.parametrize("names", [("embeddings", "labels"), ("vectors", "label")])
def test_npz_is_read_by_the_usual_names(tmp_path, names):
    found = read_vectors(save_npz(tmp_path, **dict(zip(names, (FEATURES, LABELS.astype(str)), strict=True))))
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.labels.tolist() == ["3", "1", "1", "2"]


def test_what_a_library_says_at_length_is_cut_to_one_line(tmp_path, monkeypatch):
    def read(path):
        raise ValueError("odd \x1b[31m" + "x" * 10_000 + "\nsecond line")

    monkeypatch.setitem(READERS, ".npz", read)
    with pytest.raises(UserError, match=r"x\.npz cannot be read: .*odd") as refused:
        read_vectors(save_npz(tmp_path, embeddings=FEATURES, labels=LABELS))
    problem = refused.value.problem
    assert len(problem) < 300 + len(str(tmp_path)) and "\n" not in problem and "\x1b" not in problem


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="Parquet can be read here")
def test_parquet_without_a_library_says_what_to_do(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"needs pyarrow(.|\n)*np\.savez"):
        read_vectors(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS}, "one called embeddings"),
        ({"embeddings": FEATURES, "labels": LABELS[:3]}, "4 embeddings and 3 labels"),
        ({"embeddings": FEATURES, "ids": LABELS[:3]}, "4 embeddings and 3 ids"),
        ({"embeddings": FEATURES[0], "labels": LABELS}, r"shape \(3,\)"),
        ({"embeddings": FEATURES[:, :0], "labels": LABELS}, r"shape \(4, 0\)"),
        ({"embeddings": FEATURES * 1j, "labels": LABELS}, "complex128"),
        ({"embeddings": FEATURES, "labels": LABELS / 1}, r"float64\n(.|\n)*integers or strings"),
        ({"embeddings": FEATURES, "labels": LABELS[:, None]}, r"labels of shape \(4, 1\)"),
        ({"embeddings": FEATURES, "labels": LABELS.astype(object)}, r"astype\(str\)"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        read_vectors(save_npz(tmp_path, **arrays))


def test_a_file_that_is_not_there_or_of_another_kind_or_broken_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        read_vectors(tmp_path / "none.npz")
    with pytest.raises(
        UserError, match=r"x\.csv is not a file of embeddings(.|\n)*\.npz, \.safetensors, \.parquet"
    ):
        read_vectors(tmp_path / "x.csv")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"x\.npy cannot be read"):
        read_vectors(tmp_path / "x.npy")


def header(shape, dtype="<f4", fortran=False):
    """Return the start of a .npy file that declares `shape`."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    return file.getvalue()


LYING = {
    "terabytes": header((10**9, 1024)) + b"\0" * 64,
    "more rows than there are": header((5, 3)) + b"\0" * 48,
    "a product beyond 64 bits": header((2**40, 2**40)) + b"\0" * 64,
    "a negative length": header((-1, 3)) + b"\0" * 64,
    "objects": header((2,), "|O") + pickle.dumps([1, 2]),
    "a header alone": header((4, 3))[:40],
    "nothing": b"",
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_what_a_file_declares_is_compared_with_its_size_before_memory_is_taken(tmp_path, content):
    """Of a .npy, of the labels beside one, and of both members of a .npz."""
    refused = "(declares|holds Python objects|cannot be read)"
    save_npy(tmp_path)
    sound = {name: (tmp_path / name).read_bytes() for name in ("x.npy", "x.labels.npy")}
    for name, before in sound.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"x(\.labels)?\.npy {refused}"):
            read_vectors(tmp_path / "x.npy")
        (tmp_path / name).write_bytes(before)
        with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
            for member, other in (("embeddings.npy", "x.npy"), ("labels.npy", "x.labels.npy")):
                archive.writestr(member, content if name == other else sound[other])
        with pytest.raises(UserError, match=rf"y\.npz {refused}"):
            read_vectors(tmp_path / "y.npz")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    evil = np.array([Evil()])
    for arrays in ({"embeddings": FEATURES, "labels": evil}, {"embeddings": evil[:, None], "labels": LABELS}):
        with pytest.raises(UserError, match="Python objects"):
            read_vectors(save_npz(tmp_path, **arrays))
    assert not (tmp_path / "executed").exists()


def test_a_small_file_that_inflates_to_a_large_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_tables, "MOST_BYTES", 10_000)
    np.savez_compressed(tmp_path / "x.npz", embeddings=np.zeros((100_000, 4)), labels=LABELS)
    save_table(tmp_path / "x.parquet", {"embedding": [[0.0] * 4] * 100_000, "label": [0] * 100_000})
    for name in ("x.npz", "x.parquet"):
        with pytest.raises(UserError, match=rf"{name} inflates"):
            read_vectors(tmp_path / name)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("name", ["x.npz", "x.parquet", "x.arrow", "x.feather"])
def test_damaged_files_are_refused_or_whole(tmp_path, name, damage):
    path = tmp_path / name
    features = np.random.default_rng(0).normal(size=(200, 16))
    if name == "x.npz":
        np.savez_compressed(path, embeddings=features, labels=np.arange(200))
    else:
        save_table(path, {"embedding": features.tolist(), "label": np.arange(200)})
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        path.write_bytes({"cut": whole[:place], "flipped": bytes(changed), "empty": b""}[damage])
        try:
            found = read_vectors(path)
            assert len(found.features) == len(found.labels)
        except UserError as error:
            assert "x." in error.problem


def test_big_endian_fortran_order_and_half_precision_are_read(tmp_path):
    for features in (FEATURES.astype(">f8"), np.asfortranarray(FEATURES), FEATURES.astype(np.float16)):
        for path in (save_npy(tmp_path, features), save_npz(tmp_path, embeddings=features, labels=LABELS)):
            np.testing.assert_array_equal(read_vectors(path).features, FEATURES)
    structured = np.zeros(4, [("a", "f4"), ("b", "f4")])
    with pytest.raises(UserError, match=r"shape \(4,\)"):
        read_vectors(save_npz(tmp_path, embeddings=structured, labels=LABELS))
    with pytest.raises(UserError, match="a label 18446744073709551615"):
        read_vectors(save_npz(tmp_path, embeddings=FEATURES, labels=np.full(4, 2**64 - 1, np.uint64)))


def save_table(path, columns, stream=False):
    """Write a table as the name says: Parquet, Feather, or an Arrow file or stream."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(path, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=3):
                writer.write_batch(batch)
    return path


@pytest.mark.parametrize("ids", [None, ["a", "b", "c", "d"], [7, 5, 6, 8]])
def test_labels_and_ids_are_read_where_there_are_any(tmp_path, ids):
    """In arrays and columns, and beside a file that has room for neither."""
    named = {} if ids is None else {"ids": np.array(ids)}
    files = [save_npz(tmp_path, embeddings=FEATURES, **named), tmp_path / "y.npy", tmp_path / "z.npy"]
    for path in files[1:]:
        np.save(path, FEATURES)
    if ids is not None:
        np.save(tmp_path / "y.ids.npy", ids)
        (tmp_path / "z.ids.txt").write_text("".join(f"{one}\n" for one in ids))
    columns = {} if ids is None else {"_id": ids}
    files += [save_table(tmp_path / "x.parquet", {"vector": FEATURES.tolist(), **columns})]
    for path in files:
        found = read_vectors(path)
        np.testing.assert_array_equal(found.features, FEATURES)
        assert found.labels is None
        assert (found.ids is None) if ids is None else found.ids.tolist() == [str(one) for one in ids]


@pytest.mark.parametrize("column", [[0.5] * 4, [1, None, 2, 3], [b"a"] * 4])
def test_a_column_of_another_meaning_that_is_called_id_is_left_alone(tmp_path, column):
    found = read_vectors(save_table(tmp_path / "x.parquet", TABLE | {"id": column}))
    assert found.ids is None and found.labels.tolist() == ["x", "y", "y", "z"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_safetensors_are_read_row_by_row(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    save_file({"embeddings": torch.tensor(FEATURES).to(kind), "labels": torch.tensor(LABELS)}, path)
    found = read_vectors(path)
    assert found.features.shape == (4, 3) and found.features.ndim == 2 and len(found.features) == 4
    np.testing.assert_array_equal(found.features[1:3], FEATURES[1:3])
    np.testing.assert_array_equal(np.asarray(found.features), FEATURES)
    assert found.labels.tolist() == LABELS.tolist() and found.features[:1].dtype.kind == "f"
    save_file({"any name": torch.tensor(FEATURES[0])}, path)
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        read_vectors(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read"):
        read_vectors(path)


TABLE = {"id": list("abcd"), "embedding": FEATURES.tolist(), "label": ["x", "y", "y", "z"]}


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.arrow"])
def test_tables_are_read(tmp_path, name):
    for stream in (False, True):
        found = read_vectors(save_table(tmp_path / name, TABLE, stream))
        np.testing.assert_array_equal(found.features, FEATURES)
        assert found.labels.tolist() == ["x", "y", "y", "z"]


def arrays_of(kind):
    pyarrow = pytest.importorskip("pyarrow")
    values = pyarrow.array(FEATURES.ravel())
    return {
        "fixed": pyarrow.FixedSizeListArray.from_arrays(values, 3),
        "large": pyarrow.array(FEATURES.tolist(), pyarrow.large_list(pyarrow.float32())),
        "half": pyarrow.array(FEATURES.astype(np.float16).tolist(), pyarrow.list_(pyarrow.float16())),
        "whole": pyarrow.array(FEATURES.astype(int).tolist()),
        "tensor": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(FEATURES),
        "sliced": pyarrow.array([[0.0, 0, 0], *FEATURES.tolist()]).slice(1),
    }[kind]


@pytest.mark.parametrize("kind", ["fixed", "large", "half", "whole", "tensor", "sliced"])
def test_every_kind_of_list_of_numbers_is_read(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    labels = pyarrow.array(["x", "y", "y", "z"]).dictionary_encode()
    for name in ("x.parquet", "x.arrow"):
        found = read_vectors(save_table(tmp_path / name, {"embedding": arrays_of(kind), "label": labels}))
        np.testing.assert_array_equal(found.features, FEATURES)
        assert found.labels.tolist() == ["x", "y", "y", "z"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": [[1.0, 2], [1.0, 2], None, [1.0, 2]]}, "row 2 has no embedding"),
        ({"embedding": [[1.0, 2], [1.0, 2], [1.0, 2], [1.0]]}, "row 3 has 1 values, most others 2"),
        ({"embedding": [[1.0], [1.0, 2], [1.0, 2], [1.0, 2]]}, "row 0 has 1 values, most others 2"),
        ({"embedding": [[1.0, 2], [1.0, None], [1.0, 2], [1.0, 2]]}, "row 1 has values that are null"),
        ({"label": ["a", "b", "c", None]}, "row 3 has no label"),
        ({"embedding": [[[1.0, 2]]] * 4}, "embeddings of type list"),
        ({"embedding": [["a"]] * 4}, "embeddings of type list"),
        ({"embedding": [1.0] * 4}, "embeddings of type double"),
        ({"embedding": [{"x": 1.0}] * 4}, "embeddings of type struct"),
        ({"label": [0.5] * 4}, "labels of type double"),
        ({"label": [b"a"] * 4}, "labels of type binary"),
        ({"embedding": [[]] * 4}, "embeddings of type list"),
    ],
)
def test_rows_and_types_that_do_not_fit_are_named(tmp_path, change, message):
    for name in ("x.parquet", "x.arrow"):
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            read_vectors(save_table(tmp_path / name, TABLE | change))


def part(rows):
    return {name: column[rows] for name, column in TABLE.items()}


def test_a_folder_of_spark_is_read_in_the_order_of_its_parts(tmp_path):
    folder = tmp_path / "x.parquet"
    save_table(folder / "part-00001-ab.snappy.parquet", part(slice(2, 4)))
    save_table(folder / "part-00000-ab.snappy.parquet", part(slice(0, 2)))
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000-ab.snappy.parquet.crc").write_bytes(b"crc")
    save_table(folder / ".hidden" / "part-9.parquet", part(slice(0, 1)))
    save_table(folder / "_temporary" / "part-9.parquet", part(slice(0, 1)))
    found = read_vectors(folder)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.labels.tolist() == ["x", "y", "y", "z"]
    assert [path.name[:10] for path in found.files] == ["part-00000", "part-00001"]
    save_table(folder / "part-00002.parquet", TABLE | {"embedding": [[1.0, 2]] * 4})
    with pytest.raises(UserError, match="parts differ in width"):
        read_vectors(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("split=train/part-0.parquet", "split=validation/part-0.parquet"),
        ("x_train.parquet", "x_dev.parquet"),
    ],
)
def test_splits_in_one_folder_are_not_read_as_one(names, tmp_path):
    for name, rows in zip(names, (slice(0, 2), slice(2, 4)), strict=True):
        save_table(tmp_path / "x" / name, part(rows))
    with pytest.raises(UserError, match=r"holds parts of the splits (test|train), (train|val)"):
        read_vectors(tmp_path / "x")
    (tmp_path / "x" / names[1]).unlink()
    assert read_vectors(tmp_path / "x").labels.tolist() == ["x", "y"]


def test_labels_may_be_the_names_of_folders(tmp_path):
    for label in ("cat", "a%20dog"):
        save_table(tmp_path / "x" / f"label={label}" / "part-0.parquet", {"embedding": FEATURES.tolist()})
    assert read_vectors(tmp_path / "x").labels.tolist() == ["a dog"] * 4 + ["cat"] * 4


def test_a_saved_data_set_is_read_as_its_state_says(tmp_path):
    names = [f"data-0000{number}-of-00002.arrow" for number in (0, 1)]
    for name, rows in zip(names, (slice(0, 2), slice(2, 4)), strict=True):
        save_table(tmp_path / "d" / "train" / name, part(rows), stream=True)
    save_table(tmp_path / "d" / "train" / "cache-1a2b.arrow", part(slice(0, 1)), stream=True)
    files = [{"filename": name} for name in names]
    (tmp_path / "d" / "train" / "state.json").write_text(json.dumps({"_data_files": files}))
    (tmp_path / "d" / "train" / "dataset_info.json").write_text("{}")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    np.testing.assert_array_equal(read_vectors(tmp_path / "d" / "train").features, FEATURES)
    with pytest.raises(UserError, match=r"holds the splits train(.|\n)*name it: .*d/train"):
        read_vectors(tmp_path / "d")
    (tmp_path / "d" / "train" / names[1]).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_vectors(tmp_path / "d" / "train")


def test_a_folder_without_parts_and_a_pipe_are_refused(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match=r"holds readme\.txt"):
        read_vectors(tmp_path)
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_vectors(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_tables_without_the_columns_or_without_rows_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"holds id, label\n(.|\n)*one called embeddings"):
        read_vectors(save_table(tmp_path / name, {key: TABLE[key] for key in ("id", "label")}))
    empty = pytest.importorskip("pyarrow").table(TABLE).slice(0, 0)
    with pytest.raises(UserError, match=r"shape \(0, 0\)"):
        read_vectors(save_table(tmp_path / name, {key: empty[key] for key in TABLE}))


def rows_of_file(path):
    """Return all rows as they are read: in slices and by number."""
    found = read_vectors(path).features
    every = np.arange(len(found))[::-1]
    np.testing.assert_array_equal(found[every][::-1], found[:])
    return np.asarray(found[:])


@pytest.mark.parametrize("kind", ["Flat", "IDMap,Flat", "IVF4,Flat", "SQfp16"])
def test_an_index_of_faiss_gives_its_vectors_and_ids(kind, tmp_path):
    import faiss

    x = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    index = faiss.index_factory(8, kind)
    index.train(x)
    ids = np.arange(200) + 1000
    index.add_with_ids(x, ids) if "IDMap" in kind else index.add(x)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    np.testing.assert_allclose(rows_of_file(tmp_path / "x.faiss"), x, atol=1e-2 if kind == "SQfp16" else 0)
    found = read_vectors(tmp_path / "x.faiss").ids
    assert (None if found is None else found.tolist()) == (
        ids.astype(str).tolist() if "IDMap" in kind else None
    )


def test_a_damaged_index_is_one_message(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"IxFI" + b"\xff" * 50)
    with pytest.raises(UserError, match=r"x\.faiss cannot be read"):
        read_vectors(tmp_path / "x.faiss")


def test_a_table_of_lancedb_is_read_with_labels_and_ids(tmp_path):
    lancedb = pytest.importorskip("lancedb")
    import pyarrow

    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), 8)
    rows = {"vector": vectors, "id": [f"d{n}" for n in range(300)], "label": list(range(300))}
    lancedb.connect(tmp_path).create_table("items", pyarrow.table(rows))
    found = read_vectors(tmp_path / "items.lance")
    np.testing.assert_array_equal(found.features, x)
    assert found.ids.tolist() == rows["id"] and found.labels.tolist() == rows["label"]


@pytest.mark.parametrize("form", [".parquet", "parts", ".npz", "compressed .npz"])
def test_what_is_larger_than_memory_goes_through_a_temporary_file(form, tmp_path, monkeypatch):
    from mrl_experiments.external import spool, vector_file

    for module in (spool, vector_file):
        monkeypatch.setattr(module, "LARGE", 1000)
    for module in (arrow_tables, vector_file):
        monkeypatch.setattr(module, "BATCH" if module is arrow_tables else "BLOCK", 64)
    x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float16)
    path = tmp_path / f"x{form.split()[-1]}"
    if "npz" in form:
        save = np.savez_compressed if "compressed" in form else np.savez
        save(path, first=np.arange(3), embeddings=x, labels=np.arange(500))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path.mkdir() if form == "parts" else None
        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), 8)
        table = pyarrow.table({"embedding": column, "label": np.arange(500)})
        for name, part in (("a", table[:0]), ("b", table[:300]), ("c", table[300:])):
            parquet.write_table(part, path / f"{name}.parquet") if form == "parts" else None
        parquet.write_table(table, path) if form != "parts" else None
    found = read_vectors(path)
    assert isinstance(found.features, np.memmap) and found.features.dtype == np.float16
    np.testing.assert_array_equal(rows_of_file(path), x)
    assert found.labels.tolist() == list(range(500))


@pytest.mark.slow
@pytest.mark.parametrize("form", [".npz", ".parquet"])
def test_memory_does_not_grow_with_the_file(form, tmp_path):
    """Of 200 MB of float16, read in blocks of 2 MB, at most 140 are in memory at any time."""
    rows, size = 100_000, 4000
    path, code = tmp_path / f"x{form}", MEASURED
    random = np.random.default_rng(0).standard_normal((size, 1024), np.float32)
    blocks = ((random * (1 + n / 64)).astype(np.float16) for n in range(rows // size))
    if form == ".npz":
        whole = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, (rows, 1024))
        for n, block in enumerate(blocks):
            whole[n * size : (n + 1) * size] = block
        whole.flush()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(tmp_path / "x.npy", "embeddings.npy")
        (tmp_path / "x.npy").unlink()
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        kind = pyarrow.schema({"embedding": pyarrow.list_(pyarrow.float16(), 1024)})
        with parquet.ParquetWriter(path, kind, compression="none", use_dictionary=False) as writer:
            for block in blocks:
                column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.ravel()), 1024)
                writer.write_table(pyarrow.table([column], schema=kind))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(rows)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    before, peak = map(int, done.stdout.split()[-2:])
    assert peak - before < 140 << 10, done.stdout


MEASURED = """
import sys, threading, time
from pathlib import Path

import mrl_experiments.data.vectors.vector_data, pyarrow.parquet
from mrl_experiments.data.vectors import rows as of_rows
from mrl_experiments.data.vectors.rows import is_held_out, read_rows
from mrl_experiments.external import arrow_tables, spool, vector_file
from mrl_experiments.external.vector_file import read_matrix

arrow_tables.BATCH = vector_file.BLOCK = of_rows.BLOCK = 1024  # rows
spool.LARGE = vector_file.LARGE = 1 << 24  # bytes

def anonymous():  # kB; pages of mapped files are given back when others need them
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def watch():
    while True:
        seen.append(anonymous())
        time.sleep(0.005)


before, seen = anonymous(), []
threading.Thread(target=watch, daemon=True).start()
path = Path(sys.argv[1])
matrix = read_matrix(path)
rows, said = read_rows(matrix, path)
held_out = rows.take(is_held_out(rows.keys, 0.1))
count = int(sys.argv[2])
assert len(rows) == count and held_out[:99].shape == (99, 1024)
assert 0.09 * count < len(held_out) < 0.11 * count
print(before, max(seen))
"""
