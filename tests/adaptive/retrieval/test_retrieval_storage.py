import json

import numpy as np
import pytest

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.storage import SPEC, VECTORS, load_index, save_index
from mrl_experiments.errors import UserError

RNG = np.random.default_rng(0)
DATABASE = RNG.normal(size=(800, 32)).astype(np.float32)
QUERIES = RNG.normal(size=(20, 32)).astype(np.float32)


@pytest.fixture
def index():
    spec = IndexSpec((8, 16), "IVF8,SQ8", ((8, 100), (32, 10)), coarse_dim=4, effort="nprobe=4")
    return AdaptiveIndex.build(DATABASE, np.arange(800) + 5, spec)


def test_a_loaded_index_answers_the_same(index, tmp_path):
    expected = index.search(QUERIES, 10)
    save_index(index, tmp_path)
    loaded = load_index(tmp_path)
    found = loaded.search(QUERIES, 10)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.similarities, expected.similarities)
    assert loaded.spec == index.spec


def test_loaded_vectors_are_a_read_only_map(index, tmp_path):
    save_index(index, tmp_path)
    vectors = load_index(tmp_path).vectors
    assert isinstance(vectors, np.memmap) and not vectors.flags.writeable


def test_a_loaded_index_grows_and_is_saved_over_itself(index, tmp_path):
    save_index(index, tmp_path)
    loaded = load_index(tmp_path)
    loaded.add(QUERIES, np.arange(20) + 9000)
    save_index(loaded, tmp_path)
    again = load_index(tmp_path)
    assert len(again) == 820
    assert (again.search(QUERIES, 1).ids[:, 0] == np.arange(20) + 9000).all()


@pytest.mark.parametrize("name", [VECTORS, "ids.npy", "norms.npz", "shortlist-16.faiss"])
def test_a_truncated_or_missing_file_is_refused(index, tmp_path, name):
    save_index(index, tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=name):
        load_index(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="0 bytes"):
        load_index(tmp_path)


def test_another_version_is_refused(index, tmp_path):
    save_index(index, tmp_path)
    described = json.loads((tmp_path / SPEC).read_text())
    (tmp_path / SPEC).write_text(json.dumps(described | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        load_index(tmp_path)


def test_a_damaged_faiss_file_is_refused(index, tmp_path):
    save_index(index, tmp_path)
    path = tmp_path / "shortlist-8.faiss"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(UserError, match="FAISS cannot read"):
        load_index(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="no complete index"):
        load_index(tmp_path)
