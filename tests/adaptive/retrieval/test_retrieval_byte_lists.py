import faiss
import numpy as np
import pytest

pytest.importorskip("numba")

from mrl_experiments import AdaptiveIndex
from mrl_experiments.adaptive.retrieval import rerank
from mrl_experiments.adaptive.retrieval.byte_lists import ByteLists, Codes, _cut, _largest
from mrl_experiments.adaptive.retrieval.families import efforts_of
from mrl_experiments.adaptive.retrieval.groups import VNNI, Grouped, group_sums, summing
from mrl_experiments.adaptive.retrieval.shortlist import build_shortlist
from mrl_experiments.adaptive.retrieval.similarity import compared
from mrl_experiments.adaptive.retrieval.spec import IndexSpec, split_effort
from mrl_experiments.directions import inverse_norms
from mrl_experiments.errors import UserError

WIDTH, DIM, K = 48, 12, 10


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    centres = random.normal(size=(30, WIDTH))
    falling = np.arange(1, WIDTH + 1) ** -0.5
    drawn = (centres[random.integers(30, size=3000)] + random.normal(size=(3000, WIDTH))) * falling
    return (drawn * random.uniform(0.1, 9, (3000, 1))).astype(np.float32)  # norms differ


@pytest.fixture(scope="module")
def queries(vectors):
    random = np.random.default_rng(1)
    return (vectors[::30] + 0.3 * random.normal(size=(100, WIDTH))).astype(np.float32)


def brute(vectors, queries, keep=K):
    units = [part / np.linalg.norm(part.astype(float), axis=1, keepdims=True) for part in (queries, vectors)]
    cosines = units[0] @ units[1].T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :keep]
    return np.take_along_axis(cosines, order, 1), order


def built(vectors, codes, dim, shortlist, probes, **given):
    spec = IndexSpec((dim,), codes, ((dim, shortlist), (WIDTH, K)), effort=f"nprobe={probes}", **given)
    return AdaptiveIndex.build(vectors, None, spec)


def test_codes_are_within_half_a_step_of_the_directions(vectors):
    norms = inverse_norms(vectors, [WIDTH])[WIDTH]
    codes = Codes.of(vectors, norms)
    apart = codes.codes * codes.step + codes.low - vectors * norms[:, None]
    assert (np.abs(apart) <= codes.step * 0.501).all()


FORMS = [("IVF16,SQ8", DIM, False), ("IVF16,SQ8", DIM, True), ("PCA12,IVF16,SQ8", WIDTH, False)]


@pytest.mark.parametrize(("codes", "dim", "rest"), FORMS)
@pytest.mark.parametrize("few", [True, False])
def test_all_lists_and_a_long_shortlist_find_what_comparing_all_does(vectors, queries, codes, dim, rest, few):
    index = built(vectors, codes, dim, 3000, 16, rest=rest)
    assert isinstance(index._reader(dim), ByteLists)
    cosines, places = brute(vectors, queries)
    parts = np.split(queries, 100) if few else [queries]
    found = [index.search_stages(part) for part in parts]
    np.testing.assert_allclose(np.concatenate([part.similarities for part in found]), cosines, atol=1e-5)
    assert np.mean(np.concatenate([part.ids for part in found]) == places) > 0.999  # but for near equals


@pytest.mark.parametrize(("codes", "dim", "rest"), FORMS)
def test_it_finds_what_faiss_and_the_plain_rerank_find(monkeypatch, vectors, queries, codes, dim, rest):
    index = built(vectors, codes, dim, 60, 4, rest=rest)
    compiled = index.search_stages(queries)
    single = index.search_stages(queries[:1])
    monkeypatch.setattr(rerank, "COMPILED", False)
    index._readers.clear()
    plain = index.search_stages(queries)
    np.testing.assert_array_equal(single.ids[0], compiled.ids[0])
    assert np.mean([np.isin(a, b).mean() for a, b in zip(compiled.ids, plain.ids, strict=True)]) > 0.99
    same = compiled.ids == plain.ids
    np.testing.assert_allclose(compiled.similarities[same], plain.similarities[same], atol=1e-5)


@pytest.mark.parametrize(
    "vnni", [False, pytest.param(True, marks=pytest.mark.skipif(not VNNI, reason="CPU"))]
)
def test_similarities_of_groups_are_products_with_the_codes(vnni):
    numba, random, similarities = pytest.importorskip("numba"), np.random.default_rng(2), summing(vnni)

    @numba.njit
    def of_first(codes, weights, found):
        similarities(codes.ctypes.data, weights.ctypes.data, len(weights) // 4, 2.0, 0.5, found.ctypes.data)

    for dim, sizes in ((12, [16, 0, 37]), (13, [5])):
        grouped = Grouped.room(np.array(sizes), np.zeros(dim), np.ones(dim))
        weights = np.zeros(-(-dim // 4) * 4, np.int8)
        weights[:dim] = random.integers(-127, 128, dim)
        for number, size in enumerate(sizes):
            codes = random.integers(0, 256, (size, dim), dtype=np.uint8)
            grouped.put(number, codes)
            found = np.empty(size + 16, np.float32)
            group_sums(
                grouped.codes, grouped.starts[number], size, weights, np.float32(0.5), np.float32(2), found
            )
            expected = 2 + 0.5 * (codes.astype(int) @ weights[:dim].astype(int))
            np.testing.assert_array_equal(found[:size], expected)
            if number == 0:
                of_first(grouped.codes, weights, found)
                np.testing.assert_array_equal(found[: min(size, 16)], expected[:16])


@pytest.mark.parametrize("values", ["drawn", "equal", "few", "wide"])
def test_a_cut_leaves_as_many_of_the_largest(values):
    random = np.random.default_rng(3)
    drawn = {
        "drawn": random.normal(size=500),
        "equal": np.repeat([0.5, 0.25, -3.0], 100),
        "few": np.concatenate([random.normal(size=20), np.full(80, -np.inf)]),
        "wide": random.normal(size=300) * 1e6,
    }[values].astype(np.float32)
    high = _largest(np.concatenate([drawn, np.full(16, -np.inf, np.float32)]), np.empty(16, np.float32))
    assert high == drawn.max()
    for most in (1, 10, 60, 99):
        cut, ordered = _cut(drawn, most, high), np.sort(drawn)[::-1]
        left = drawn[drawn >= cut]
        assert len(left) >= most and left.min() == ordered[most - 1]


@pytest.mark.parametrize(("codes", "dim", "rest"), FORMS)
@pytest.mark.parametrize("margin", [0, 1, 2.5])
def test_a_margin_leaves_out_the_lists_whose_centroids_are_less_near(
    vectors, queries, codes, dim, rest, margin
):
    index = built(vectors, codes, dim, 3000, f"16,margin={margin}", rest=rest)
    outer = faiss.downcast_index(index.shortlists[dim])
    short = compared(queries, dim, "cosine", rest)
    core = outer
    if dim == WIDTH:
        short, core = outer.chain.at(0).apply(short), faiss.downcast_index(outer.index)
    near = short @ core.quantizer.reconstruct_n(0, 16).T
    lists = [
        faiss.rev_swig_ptr(core.invlists.get_ids(n), core.invlists.list_size(n)).copy() for n in range(16)
    ]
    core.make_direct_map()
    own = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(lists)])
    rows = np.concatenate(lists)
    left_over = (
        np.stack([core.reconstruct(int(row)) for row in rows]) - core.quantizer.reconstruct_n(0, 16)[own]
    )
    deviation = np.sqrt(np.square(short) @ np.square(left_over).mean(axis=0))
    read = near >= near.max(axis=1, keepdims=True) - margin * deviation[:, None]
    found = index.search_stages(queries)
    same = []
    for row in range(len(queries)):
        inside = np.sort(rows[read[row][own]])
        expected = inside[brute(vectors[inside], queries[row : row + 1])[1][0]]
        same.append(np.isin(found.ids[row], expected).mean())
    assert np.mean(same) > 0.97  # but for centroids on the edge, whose products are rounded
    assert index.macs(queries) < built(vectors, codes, dim, 3000, 16, rest=rest).macs(queries)


def test_margins_grow_up_to_none(vectors, queries):
    efforts = efforts_of(4096, "SQ8")
    margins = [split_effort(effort).margin for effort in efforts]
    assert margins == sorted(margins) and efforts[-1] == "nprobe=512"
    index = built(vectors, "IVF64,SQ8", DIM, 60, 64)
    _, places = brute(vectors, queries)
    shares = []
    for effort in efforts_of(64, "SQ8"):
        found = index.search_stages(queries, effort=effort).ids
        shares.append(np.mean([np.isin(a, b).mean() for a, b in zip(places, found, strict=True)]))
    assert all(np.diff(shares) > -0.005) and shares[-1] > shares[0]  # but for what codes take for near


def test_vectors_without_a_spread_are_found(vectors):
    few = np.repeat(vectors[:8], 3, axis=0)  # nothing is left over by centroids
    found = built(few, "IVF8,SQ8", DIM, 24, 8).search_stages(few)
    assert (found.ids[:, :3] == np.arange(24)[:, None] // 3 * 3 + [0, 1, 2]).all()


@pytest.mark.parametrize("few", [True, False])
def test_a_mask_leaves_the_nearest_of_what_it_lets_through(vectors, queries, few):
    index = built(vectors, "IVF16,SQ8", DIM, 3000, 16)
    mask = np.zeros(3000, bool)
    mask[5:12] = few
    mask[1::2] |= not few
    found = index.search_stages(queries, mask=mask)
    allowed = np.flatnonzero(mask)
    expected = allowed[brute(vectors[allowed], queries)[1]]
    there = min(K, len(allowed))
    assert np.mean(found.ids[:, :there] == expected) > 0.999
    assert (found.ids[:, there:] == -1).all()


def test_with_the_norm_of_the_rest_products_bound_cosines(vectors, queries):
    cosines, places = brute(vectors, queries)
    parts = [compared(part, DIM, "cosine", rest=True) for part in (queries, vectors)]
    np.testing.assert_allclose(np.linalg.norm(parts[1], axis=1), 1, atol=1e-6)
    bounds = np.take_along_axis(parts[0] @ parts[1].T, places, 1)
    assert (bounds >= cosines - 1e-6).all()
    with pytest.raises(UserError, match="rest=True"):
        IndexSpec((DIM,), "IVF16,SQ8", ((DIM, K),), similarity="l2", rest=True)


def test_equals_are_ordered_by_position_and_what_is_missing_is_minus_one(vectors):
    twice = np.concatenate([vectors[:200], vectors[:200] * 2])
    found = built(twice, "IVF4,SQ8", DIM, 400, 4).search_stages(vectors[:20])
    np.testing.assert_array_equal(found.ids[:, :2], np.arange(20)[:, None] + [0, 200])
    single = AdaptiveIndex.build(vectors[:40], None, IndexSpec((DIM,), "IVF8,SQ8", ((DIM, 30), (WIDTH, 20))))
    lacking = single.search_stages(vectors[:5], effort="nprobe=1")
    assert (lacking.ids == -1).any()
    assert np.isneginf(lacking.similarities[lacking.ids == -1]).all()


def test_vectors_that_come_and_go_are_found_and_not_found(vectors, queries):
    index = built(vectors[:2000], "IVF16,SQ8", DIM, 300, 16)
    index.search_stages(queries)
    index.add(vectors[2000:], np.arange(2000, 3000))
    np.testing.assert_array_equal(index.search_stages(vectors[2500:2520]).ids[:, 0], np.arange(2500, 2520))
    index.delete(np.arange(2500, 2520))
    assert not np.isin(index.search_stages(vectors[2500:2520]).ids, np.arange(2500, 2520)).any()


def test_queries_without_a_direction_are_refused_as_before(vectors):
    index = built(vectors, "IVF16,SQ8", DIM, 60, 4)
    for bad in (np.zeros((1, WIDTH), np.float32), np.full((1, WIDTH), np.nan, np.float32)):
        with pytest.raises(UserError, match="queries"):
            index.search_stages(bad)
    short = np.zeros((1, WIDTH), np.float32)
    short[0, -1] = 1  # no direction in its first features
    huge = vectors[:2] * np.float32(1e30)
    assert index.search_stages(short).ids.shape == (1, K)
    np.testing.assert_array_equal(index.search_stages(huge).ids[:, 0], [0, 1])


def test_other_kinds_are_left_to_faiss(vectors):
    norms = inverse_norms(vectors, [WIDTH])[WIDTH]
    kinds = ("IVF16,Flat", "cosine"), ("IVF16_HNSW8,SQ8", "cosine"), ("PCA8,IVF16,SQ8", "cosine")
    for codes, similarity in (*kinds, ("IVF16,SQ8", "l2")):
        spec = IndexSpec((DIM,), codes, ((DIM, 20), (WIDTH, K)), similarity=similarity)
        assert ByteLists.of(build_shortlist(vectors, DIM, spec), vectors, norms) is None


def test_a_loaded_index_finds_the_same_and_leaves_large_files_on_the_disk(
    monkeypatch, tmp_path, vectors, queries
):
    index = built(vectors, "IVF16,SQ8", DIM, 60, "4,margin=2", rest=True)
    index.save(tmp_path / "index")
    loaded = AdaptiveIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(loaded.search_stages(queries).ids, index.search_stages(queries).ids)
    assert loaded._reader(DIM) is not None
    monkeypatch.setattr("mrl_experiments.adaptive.retrieval.index.MAPPED", 1000)
    again = AdaptiveIndex.load(tmp_path / "index")
    assert again._reader(DIM) is None


def test_threads_share_queries(vectors, queries):
    index = built(vectors, "IVF16,SQ8", DIM, 60, 4)
    alone, threads = index.search_stages(np.repeat(queries, 3, axis=0)), faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        np.testing.assert_array_equal(index.search_stages(np.repeat(queries, 3, axis=0)).ids, alone.ids)
    finally:
        faiss.omp_set_num_threads(threads)
