import json
import shutil

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
    index.save(str(tmp_path))
    loaded = AdaptiveIndex.load(str(tmp_path))
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


FILES = [VECTORS, "ids.npy", "norms.npz", "shortlist-16.faiss"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_truncated_or_missing_file_is_refused(index, tmp_path, name):
    save_index(index, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-9] ^= 1
    for changed in (content, content[:-1], b""):
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(UserError, match=f"{name} has changed since it was written"):
            load_index(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_index(tmp_path)


@pytest.mark.parametrize("name", [*FILES, SPEC])
def test_a_file_of_another_index_is_noticed(index, tmp_path, name):
    save_index(index, tmp_path / "one")
    other = AdaptiveIndex.build(DATABASE[::-1].copy(), np.arange(800) + 6, index.spec)
    save_index(other, tmp_path / "two")
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    if name == "norms.npz":  # both indexes keep none
        assert len(load_index(tmp_path / "one")) == 800
        return
    with pytest.raises(UserError, match="has changed since it was written"):
        load_index(tmp_path / "one")


def without_checksums(folder, **changes):
    """Describe an index as it was before there were checksums."""
    described = json.loads((folder / SPEC).read_text())
    del described["digest"]
    sizes = {name: noted["bytes"] for name, noted in described.pop("files").items()}
    (folder / SPEC).write_text(json.dumps({**described, "bytes": sizes, **changes}))


def test_an_index_of_before_there_were_checksums_is_read(index, tmp_path):
    save_index(index, tmp_path)
    without_checksums(tmp_path)
    assert load_index(tmp_path).search(QUERIES, 3).ids.tolist() == index.search(QUERIES, 3).ids.tolist()
    path = tmp_path / "shortlist-8.faiss"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(UserError, match="is damaged"):
        load_index(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"version": 99}, "version 99"),
        ({"spec": {"a": 1}}, "damaged"),
        ({"spec": 3}, "damaged"),
        ({"bytes": {}}, f"damaged: '{VECTORS}'"),
        ({"spec": {"dims": [8], "codes": "Flat", "stages": [[8, -1]]}}, "one is damaged: stages"),
    ],
)
def test_a_foreign_description_is_refused(index, tmp_path, changes, said):
    save_index(index, tmp_path / "one")
    without_checksums(tmp_path / "one", **changes)
    with pytest.raises(UserError, match=said):
        load_index(tmp_path / "one")


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="no complete index"):
        load_index(tmp_path)
