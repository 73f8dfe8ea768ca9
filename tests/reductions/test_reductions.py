import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads
from mrl_experiments.reductions.adaptor import Adaptor
from mrl_experiments.reductions.jl import JL
from mrl_experiments.reductions.prefix import Prefix
from mrl_experiments.reductions.random import Random
from mrl_experiments.reductions.svd import SVD
from mrl_experiments.reductions.svd_head import SVDHead

WIDTH, CLASSES = 24, 10
ALL = [Prefix(1), Random(3), JL(3), SVD(1), SVDHead(1)]


def embeddings(seed, count=500, width=WIDTH, classes=CLASSES):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((width, width)) * 2.0 ** -np.arange(width)
    weight = np.random.default_rng(8).standard_normal((classes, width), dtype=np.float32)
    bias = np.random.default_rng(9).standard_normal(classes, dtype=np.float32)
    features = (rng.standard_normal((count, width)) @ mixing.T).astype(np.float32)
    heads = Heads({width: weight}, {width: bias}, tied=False)
    return Embeddings(features, rng.integers(0, classes, count), heads, {"dims": [width]})


def name(reduction):
    return type(reduction).__name__


@pytest.mark.parametrize("reduction", ALL, ids=name)
def test_applied_sample_by_sample_and_nothing_is_modified(reduction):
    train, val = embeddings(0), embeddings(1)
    before = val.features.copy()
    fitted = reduction.fit(train, 0)
    whole = fitted.apply(val)
    half = fitted.apply(Embeddings(val.features[:100], val.labels[:100], val.heads, val.meta))
    np.testing.assert_allclose(half.features, whole.features[:100], atol=1e-5)
    np.testing.assert_array_equal(val.features, before)
    assert whole.features.dtype == np.float32
    np.testing.assert_array_equal(whole.labels, val.labels)


@pytest.mark.parametrize("reduction", [Random(3), SVD(1), SVDHead(1)], ids=name)
def test_rotations_keep_cosines_and_predictions_at_full_width(reduction):
    train, val = embeddings(0), embeddings(1)
    reduced = reduction.fit(train, 0).apply(val)
    np.testing.assert_allclose(
        reduced.features @ reduced.features.T, val.features @ val.features.T, atol=1e-3
    )
    ours, theirs = reduced.heads.logits(reduced.features, WIDTH), val.heads.logits(val.features, WIDTH)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert reduced.heads.serves(5)


def test_svd_is_scikit_learns():
    train, val = embeddings(0), embeddings(1)
    theirs = (
        TruncatedSVD(6, algorithm="arpack").fit(train.features.astype(np.float64)).transform(val.features)
    )
    ours = SVD(1).fit(train, 0).apply(val).features[:, :6]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-3)  # directions have no sign


def test_svd_head_gives_the_best_low_rank_classifier():
    train = embeddings(0)
    reduced = SVDHead(1).fit(train, 0).apply(train)
    weight, bias = train.heads.at(WIDTH)
    u, s, vt = np.linalg.svd(weight)
    for rank in (1, 4, CLASSES, CLASSES + 3):
        best = (u[:, :rank] * s[:rank]) @ vt[:rank] if rank < CLASSES else weight
        expected = train.features @ best.T + bias
        np.testing.assert_allclose(reduced.heads.logits(reduced.features, rank), expected, atol=1e-4)


def test_random_takes_each_feature_once_and_draws_differ():
    train = embeddings(0)
    draws = [Random(3).fit(train, draw).apply(train).features for draw in (0, 1, 0)]
    np.testing.assert_array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[1])
    assert sorted(draws[0][0].tolist()) == sorted(train.features[0].tolist())


def test_jl_keeps_distances_in_expectation():
    train = embeddings(0, count=40, width=256)
    squared = (train.features**2).sum(axis=1)
    for dim in (64, 256):
        ratios = []
        for draw in range(40):
            short = JL(40).fit(train, draw).apply(train).at(dim)
            ratios.append(((short**2).sum(axis=1) / squared).mean())
        assert np.mean(ratios) == pytest.approx(dim / 256, rel=0.05)


@pytest.mark.parametrize("mlp", [False, True])
def test_an_adaptor_maps_as_its_file_says(tmp_path, mlp):
    draw = np.random.default_rng(0)
    shapes = {"matrix": (WIDTH, WIDTH)} | (
        {"mlp_in": (WIDTH, 5), "mlp_bias": (5,), "mlp_out": (5, WIDTH)} if mlp else {}
    )
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    stored = AdaptorFile(arrays, [8, WIDTH], "trained")
    stored.save(tmp_path / "adaptor.safetensors")
    val = embeddings(1, count=50)
    reduced = Adaptor(1, str(tmp_path / "adaptor.safetensors")).fit(None, 0).apply(val)
    np.testing.assert_allclose(reduced.features, stored.apply(np.asarray(val.features)), rtol=1e-5, atol=1e-4)
    assert reduced.unreduced is val and stored.digest in reduced.meta["reduction"] and reduced.heads is None
    with pytest.raises(UserError, match=r"reduction\.file="):
        Adaptor(1, None).fit(None, 0)
    with pytest.raises(UserError, match="these embeddings have 12 features"):
        Adaptor(1, str(tmp_path / "adaptor.safetensors")).fit(None, 0).apply(embeddings(0, width=12))


def test_fits_are_told_apart():
    train, other = embeddings(0), Embeddings(*vars(embeddings(0)).values())
    other.meta["checksum"] = {"features.npy": "other"}
    names = [Random(2).fit(train, 0), Random(2).fit(train, 1), JL(1).fit(train, 0), SVD(1).fit(train, 0)]
    applied = [fitted.apply(train).identity for fitted in [*names, SVD(1).fit(other, 0)]]
    assert len({train.identity, *applied}) == 6


def test_bad_input():
    with pytest.raises(UserError, match="these embeddings have 12 features"):
        SVD(1).fit(embeddings(0), 0).apply(embeddings(0, width=12))
    headless = Embeddings(embeddings(0).features, embeddings(0).labels, None, {})
    with pytest.raises(UserError, match="no classifier of all 24 features"):
        SVDHead(1).fit(headless, 0)
