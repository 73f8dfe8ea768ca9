import faiss
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_experiments.errors import UserError
from mrl_experiments.search import neighbours
from mrl_experiments.search.neighbours import nearest


@pytest.fixture(params=["heaps", "reservoirs"])
def keeper(request, monkeypatch):
    """What keeps the nearest: FAISS's heaps for small searches, a compiled loop for others."""
    if request.param == "reservoirs":
        pytest.importorskip("numba")
        monkeypatch.setattr(neighbours, "WORTH_COMPILING", 0)
    return request.param


def brute_force(queries, database, dim, k):
    """Sort all cosines, equal ones by position."""
    q, x = queries[:, :dim].astype(np.float64), database[:, :dim].astype(np.float64)
    cosines = (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T
    order = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.usefixtures("keeper")
@pytest.mark.parametrize("size", [40, 513])  # less than a block, a block and one more
def test_finds_what_sorting_all_cosines_finds(size):
    queries, database = normal(0, 300, 24), normal(1, size, 24)
    found = nearest(queries, database, [3, 8, 12, 24], 7)
    assert list(found) == [3, 8, 12, 24]
    for dim, (similarities, positions) in found.items():
        best, _ = brute_force(queries, database, dim, 7)
        np.testing.assert_allclose(similarities, best, atol=1e-6)
        everything, order = brute_force(queries, database, dim, size)
        actual = np.zeros_like(everything)
        np.put_along_axis(actual, order, everything, axis=1)
        # Up to rounding: cosines that differ in the seventh digit may change places.
        np.testing.assert_allclose(np.take_along_axis(actual, positions, axis=1), best, atol=1e-6)
        assert all(len(set(row)) == 7 for row in positions.tolist())


@pytest.mark.usefixtures("keeper")
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
def test_equals_are_in_the_order_of_the_database(seed, distinct, k):
    # One-hot directions scaled by powers of two: every similarity is exactly 0 or 1, so ties abound.
    rng = np.random.default_rng(seed)
    vectors = np.eye(8, dtype=np.float32)[rng.integers(0, 8, 40)] * 2.0 ** rng.integers(-2, 3, (40, 1))
    database = vectors[rng.integers(0, distinct, 40)].astype(np.float32)
    queries = np.eye(8, dtype=np.float32)
    positions = nearest(queries, database, [8], k)[8].positions
    np.testing.assert_array_equal(positions, brute_force(queries, database, 8, k)[1])


def test_agrees_with_faiss_at_each_size():
    queries, database = normal(0, 50, 64), normal(1, 3000, 64)
    for dim, found in nearest(queries, database, [8, 16, 32, 64], 10).items():
        q, x = (np.ascontiguousarray(v[:, :dim]) for v in (queries, database))
        faiss.normalize_L2(q)
        faiss.normalize_L2(x)
        squared, positions = faiss.knn(q, x, 10)
        np.testing.assert_array_equal(found.positions, positions)
        np.testing.assert_allclose(2 - 2 * found.similarities, squared, atol=5e-6)


def test_both_ways_keep_the_same(monkeypatch):
    """Bit for bit, over two chunks with cosines that are equal, by labels or without, and by L2."""
    pytest.importorskip("numba")
    monkeypatch.setattr(neighbours, "WORTH_COMPILING", 0)
    database, labels = np.repeat(normal(0, 3000, 16), 3, axis=0), np.arange(9000) % 7
    queries = np.concatenate([database[:20], normal(1, 40, 16)])
    for given_labels in (None, (labels[:60], labels)):
        for similarity in ("cosine", "inner_product", "l2"):
            search = (queries, database, [2, 4, 16], 50, given_labels, similarity)
            monkeypatch.setattr(neighbours, "COMPILED", False)
            expected = nearest(*search)
            monkeypatch.setattr(neighbours, "COMPILED", True)
            for dim, found in nearest(*search).items():
                np.testing.assert_array_equal(found.positions, expected[dim].positions)
                np.testing.assert_array_equal(found.similarities, expected[dim].similarities)
            if similarity == "cosine" and given_labels is None:
                best, _ = brute_force(queries, database, 16, 50)
                np.testing.assert_allclose(expected[16].similarities, best, atol=1e-6)


def test_reads_a_memory_map_and_leaves_it_and_the_threads_alone(tmp_path):
    database = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (700, 16))
    database[:] = normal(0, 700, 16)
    before, threads = database.copy(), torch.get_num_threads()
    found = nearest(database, np.load(tmp_path / "x.npy", mmap_mode="r"), [16], 1)
    assert (found[16].positions[:, 0] == np.arange(700)).all()
    np.testing.assert_array_equal(database, before)
    assert torch.get_num_threads() == threads


def test_refuses_more_neighbours_than_there_are():
    with pytest.raises(UserError, match="k=6 neighbours in a database of 5"):
        nearest(normal(0, 3, 4), normal(1, 5, 4), [4], 6)


def test_a_prefix_of_zeros_is_orthogonal_to_everything():
    database = np.array([[-1, 0, 1], [0, 0, 1], [1, 0, 1]], np.float32)
    similarities, positions = nearest(database, database, [2, 3], 3)[2]
    np.testing.assert_array_equal(positions, [[0, 1, 2], [0, 1, 2], [2, 1, 0]])
    np.testing.assert_allclose(similarities, [[1, 0, -1], [0, 0, 0], [1, 0, -1]])


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU and a GPU build of FAISS")
def test_gpu_agrees_with_sorting():
    queries, database = normal(0, 300, 24), normal(1, 5000, 24)
    _, positions = neighbours.nearest(queries, database, [24], 7)[24]
    np.testing.assert_array_equal(positions, brute_force(queries, database, 24, 7)[1])
