import functools
import itertools

import numpy as np
import pytest

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import BOUNDED, IndexSpec
from mrl_experiments.adaptive.retrieval.storage import load_index, save_index
from mrl_experiments.errors import UserError

COUNT, WIDTH, K = 2000, 48, 10
RNG = np.random.default_rng(0)
DECAY = np.arange(1, WIDTH + 1) ** -0.5
DATABASE = (RNG.normal(size=(COUNT, WIDTH)) * DECAY).astype(np.float32)
QUERIES = (DATABASE[:40] + 0.1 * RNG.normal(size=(40, WIDTH)) * DECAY).astype(np.float32)
OPQ = pytest.param("OPQ8,IVF16,PQ8x4fs", marks=pytest.mark.slow)  # learns its rotation for seconds
CODES = ["Flat", "HNSW16", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8x4fsr", OPQ, "PQ8x4fs", "RaBitQ"]


def cosines(dim):
    queries, database = QUERIES[:, :dim].astype(float), DATABASE[:, :dim].astype(float)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ (database / np.linalg.norm(database, axis=1, keepdims=True)).T


def nearest(dim, k=K):
    return np.argsort(-cosines(dim), axis=1)[:, :k]


def build(codes="Flat", stages=((16, 200), (WIDTH, K)), dims=(16,), ids=None, **options):
    return AdaptiveIndex.build(DATABASE, ids, IndexSpec(dims, codes, stages, **options))


@functools.cache
def thorough(codes):
    return build(codes, effort="nprobe=16" if "IVF" in codes else "efSearch=2000" if "HNSW" in codes else "")


@pytest.mark.parametrize("codes", ["IVF16,Flat", "IVF16,PQ16x4fsr"])
def test_a_look_into_more_lists_than_there_are_is_one_into_all(codes):
    """FAISS's scans of 4 bits lose neighbours by it."""
    whole, more = (build(codes, effort=f"nprobe={lists}") for lists in (16, 64))
    np.testing.assert_array_equal(more.search(QUERIES, K).ids, whole.search(QUERIES, K).ids)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("dim", [17, 24, WIDTH])
def test_a_shortlist_of_everything_gives_brute_force(codes, dim):
    found = thorough(codes).search(QUERIES, K, 16, [dim], COUNT)
    np.testing.assert_array_equal(found.ids, nearest(dim))
    np.testing.assert_allclose(found.similarities, np.take_along_axis(cosines(dim), found.ids, 1), atol=1e-5)


def test_a_funnel_narrows_as_written_out():
    found = build().search_stages(QUERIES, [[16, 100], [24, 30], [WIDTH, K]])
    for row in range(len(QUERIES)):
        left = np.argsort(-cosines(16)[row])[:100]
        left = left[np.argsort(-cosines(24)[row, left])][:30]
        left = left[np.argsort(-cosines(WIDTH)[row, left])][:K]
        assert found.ids[row].tolist() == left.tolist()


def test_stages_of_the_spec_are_the_default():
    index = build(stages=((16, 100), (24, 30), (WIDTH, K)))
    np.testing.assert_array_equal(
        index.search(QUERIES, 5).ids, index.search_stages(QUERIES, [[16, 100], [24, 30], [WIDTH, 5]]).ids
    )


def test_repeated_searches_agree_and_nothing_given_is_modified():
    database, queries = DATABASE.copy(), QUERIES.copy()
    database.flags.writeable = queries.flags.writeable = False
    index = AdaptiveIndex.build(database, None, IndexSpec((16,), "Flat", ((16, 200), (WIDTH, K))))
    first = index.search_stages(queries, [[16, 100], [WIDTH, 50]])
    index.search_stages(queries, [[16, 20], [24, 10]])
    again = index.search_stages(queries, [[16, 100], [WIDTH, 50]])
    np.testing.assert_array_equal(first.ids, again.ids)
    assert index.vectors is database
    np.testing.assert_array_equal(queries, QUERIES)


def test_ids_are_those_given():
    ids = RNG.permutation(10**12 + np.arange(COUNT))
    np.testing.assert_array_equal(build(ids=ids).search(QUERIES, K, shortlist=COUNT).ids, ids[nearest(WIDTH)])


def test_the_norm_of_a_vector_does_not_matter():
    scaled = AdaptiveIndex.build(
        DATABASE * RNG.uniform(0.1, 10, (COUNT, 1)).astype(np.float32), None, build().spec
    )
    np.testing.assert_array_equal(scaled.search(QUERIES, K).ids, build().search(QUERIES, K).ids)


def test_clustering_a_shorter_prefix_probes_the_lists_it_names():
    index = build("IVF16,Flat", coarse_dim=8, effort="nprobe=1")
    found = index.scan(QUERIES, 16, COUNT).ids
    centroids = index.shortlists[16].quantizer.reconstruct_n(0, 16)
    assert not centroids[:, 8:].any()
    units = DATABASE[:, :8] / np.linalg.norm(DATABASE[:, :8], axis=1, keepdims=True)
    lists = (units @ centroids[:, :8].T).argmax(axis=1)
    probed = (QUERIES[:, :8] @ centroids[:, :8].T).argmax(axis=1)
    for row, wanted in zip(found, probed, strict=True):
        assert set(row[row >= 0]) == set(np.flatnonzero(lists == wanted))


def test_fewer_neighbours_than_asked_are_marked():
    found = build("IVF16,Flat", effort="nprobe=1").search(QUERIES, 1000, 16, [WIDTH], 1000)
    assert (found.ids[:, -1] == -1).all() and np.isneginf(found.similarities[:, -1]).all()
    small = AdaptiveIndex.build(DATABASE[:3], None, build().spec).search(QUERIES, K)
    assert small.ids.shape == (40, 3)


@pytest.mark.parametrize("codes", CODES)
def test_added_vectors_are_found(codes):
    index = build(codes, effort="nprobe=16" if "IVF" in codes else "")
    index.search(QUERIES, K)
    index.add(QUERIES, np.arange(COUNT, COUNT + len(QUERIES)))
    found = index.search(QUERIES, K)
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(COUNT, COUNT + len(QUERIES)))
    np.testing.assert_allclose(found.similarities[:, 0], 1, rtol=1e-5)


def test_macs_count_what_is_compared():
    assert build().macs(QUERIES) == COUNT * 16 + 200 * WIDTH
    assert (
        build("IVF16,Flat", coarse_dim=8, effort="nprobe=16").macs(QUERIES, [[16, K]]) == COUNT * 16 + 16 * 8
    )
    assert 0 < build("HNSW16").macs(QUERIES, [[16, K]]) < COUNT * 16


def test_codes_take_fewer_bytes():
    assert build("RaBitQ").shortlist_bytes < build("IVF16,SQ8").shortlist_bytes < build().shortlist_bytes
    assert build().shortlist_bytes == pytest.approx(COUNT * 16 * 4, rel=0.01)


@pytest.mark.parametrize(
    "mistake, message",
    [
        (lambda: AdaptiveIndex.build(DATABASE[:0], None, build().spec), "shape"),
        (lambda: AdaptiveIndex.build(DATABASE[:, :32], None, build().spec), "48 features"),
        (lambda: AdaptiveIndex.build(DATABASE * np.float32("nan"), None, build().spec), "NaN"),
        (lambda: build(ids=np.zeros(COUNT, np.int64)), "more than once"),
        (lambda: build(ids=np.arange(COUNT - 1)), "ids of shape"),
        (lambda: build(ids=np.arange(COUNT) - 1), "smallest -1"),
        (lambda: build("Flatt"), "Flatt"),
        (lambda: build("IVF4096,Flat"), "IVF4096"),
        (lambda: build("IVF99999999,Flat"), "more lists than vectors"),  # whose lists alone are gigabytes
        (lambda: build("IVF0,Flat"), "no list"),
        (lambda: build(coarse_dim=8), "without lists"),
        (lambda: build(effort="nprobe=4"), "nprobe=4"),
        (lambda: build().search(QUERIES[:, :16], K), "queries of shape"),
        (lambda: build().search(QUERIES * 0, K), "zeros only"),
        (lambda: build().search(QUERIES * np.float32("nan"), K), "NaN"),
        (lambda: build().search(QUERIES.astype(float) * 1e300, K), "infinite"),  # float64 beyond float32
        (lambda: build().search(QUERIES.astype(float) * 1e-300, K), "zeros only"),
        (lambda: build().search(QUERIES * 1j, K), "complex"),
        (lambda: build().search(QUERIES[0], K), r"queries of shape \(48,\)"),
        (lambda: build().search(QUERIES, 0), "k=0"),
        (lambda: build().search(QUERIES, 2.5), "k=2.5"),
        (lambda: build().search(QUERIES, 2.0), "k=2.0"),
        (lambda: build().search(QUERIES, True), "k=True"),
        (lambda: build().search(QUERIES, "2"), "k='2'"),
        (lambda: build().search(QUERIES, np.nan), "k=nan"),
        (lambda: build().search(QUERIES, 2, shortlist=9.5), "shortlist=9.5"),
        (lambda: AdaptiveIndex.build(DATABASE[0], None, build().spec), "shape"),
        (lambda: AdaptiveIndex.build(DATABASE.astype(str), None, build().spec), "type <U"),
        (lambda: build().add(DATABASE[:5] * np.float32("inf"), np.arange(5)), "infinite"),
        (lambda: build().search(QUERIES, K, shortlist=5), "shortlist of 5"),
        (lambda: build().search(QUERIES, K, shortlist_dim=8), "no indexed dim"),
        (lambda: build().search(QUERIES, K, rerank_dims=[12]), "do not nest"),
        (lambda: build().search(QUERIES, K, rerank_dims=[64]), "at most 48"),
        (lambda: build().search(QUERIES, 500), "keep more"),
        (lambda: build().add(DATABASE[:5, :16], np.arange(5)), "in the index"),
        (lambda: build().add(DATABASE[:5], np.arange(5)), "more than once"),
    ],
)
def test_bad_input_is_refused(mistake, message):
    with pytest.raises(UserError, match=message):
        mistake()


def test_a_refused_addition_changes_nothing():
    index = build()
    with pytest.raises(UserError):
        index.add(QUERIES, np.arange(len(QUERIES)))
    assert len(index) == len(index.ids) == index.shortlists[16].ntotal == COUNT


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda x: x.astype(">f8"), lambda x: x.astype(np.float16)]
)
def test_any_order_and_number_type_is_read(change):
    index = AdaptiveIndex.build(change(DATABASE), None, build().spec)
    found = index.search(change(QUERIES)[:, :], K)
    exact = AdaptiveIndex.build(np.ascontiguousarray(change(DATABASE), np.float32), None, build().spec)
    expected = exact.search(np.ascontiguousarray(change(QUERIES), np.float32), K)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_one_vector_and_no_query():
    index = AdaptiveIndex.build(DATABASE[:1], None, build().spec)
    assert index.search(QUERIES, K).ids.tolist() == [[0]] * 40
    assert index.search(QUERIES[:0], K).ids.shape == (0, 1)


def test_a_prefix_of_zeros_is_similar_to_nothing_and_ranks_by_position():
    vectors = np.maximum(DATABASE[:20], 0)
    vectors[[3, 7], :24] = 0  # as rectified features can be
    vectors[:, 47] = 1
    index = AdaptiveIndex.build(vectors, None, IndexSpec((16,), "Flat", ((16, 20), (24, 20))))
    found = index.search(vectors[[3, 0]], 20)
    assert not found.similarities[0].any() and found.ids[0].tolist() == list(range(20))
    assert (found.similarities[1][np.isin(found.ids[1], [3, 7])] == 0).all()


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
@pytest.mark.parametrize("width", [9, 32])
def test_bounds_from_the_first_features_rule_out_no_neighbour(similarity, width, tmp_path):
    random = np.random.default_rng(3)
    vectors, queries = (
        (random.normal(size=(count, width)) * np.arange(1, width + 1) ** -0.7).astype("f4")
        for count in (900, 100)
    )
    spec = IndexSpec((width,), BOUNDED, ((width, 7),), similarity=similarity)
    index = AdaptiveIndex.build(vectors, None, spec)
    mask = random.random(900) < 0.3
    save_index(index, tmp_path)
    for one, allowed in itertools.product((index, load_index(tmp_path)), (None, mask)):
        expected = exact_neighbours(queries, vectors, 7, similarity, allowed)
        for part in (slice(0, 1), slice(0, 20), slice(0, 100)):
            found = one.search_stages(queries[part], mask=allowed)
            np.testing.assert_array_equal(found.ids, expected.ids[part])
            np.testing.assert_allclose(found.similarities, expected.similarities[part], atol=1e-5)
