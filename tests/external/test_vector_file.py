"""Files of embeddings: what is read, and what is refused."""

import importlib.util

import numpy as np
import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.external import vector_file
from mrl_experiments.external.vector_file import read_vectors

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


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_parquet_is_read_by_either_library(tmp_path, library, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    if library == "pandas":
        pytest.importorskip("pandas")
        monkeypatch.setattr(vector_file, "_parquet_columns", vector_file._pandas_columns)
    columns = {"id": list("abcd"), "embedding": FEATURES.tolist(), "label": ["x", "y", "y", "z"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    found = read_vectors(tmp_path / "x.parquet")
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.labels.tolist() == ["x", "y", "y", "z"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("pyarrow", "pandas")), reason="Parquet can be read here"
)
def test_parquet_without_a_library_says_what_to_do(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pyarrow or pandas(.|\n)*np\.savez"):
        read_vectors(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embeddings": FEATURES}, r"holds embeddings\n(.|\n)*one called labels"),
        ({"labels": LABELS}, "one called embeddings"),
        ({"embeddings": FEATURES, "labels": LABELS[:3]}, "4 embeddings and 3 labels"),
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
    with pytest.raises(UserError, match=r"x\.csv is not a file of embeddings(.|\n)*\.npy, \.npz, \.parquet"):
        read_vectors(tmp_path / "x.csv")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"no labels beside it(.|\n)*x\.labels\.npy"):
        read_vectors(tmp_path / "x.npy")
    np.save(tmp_path / "x.labels.npy", LABELS)
    with pytest.raises(UserError, match=r"x\.npy cannot be read"):
        read_vectors(tmp_path / "x.npy")
