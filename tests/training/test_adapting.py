"""The map that is used in the end: never below the plain prefix."""

import numpy as np
import pytest
import torch
from commands import succeed
from composing import composed

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.build import build_method
from mrl_experiments.construct import construct
from mrl_experiments.data.vectors.rows import read_rows
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_object, write_json
from mrl_experiments.models.adaptor import Adaptor
from mrl_experiments.runs import Run
from mrl_experiments.training.adapting import (
    HeldOut,
    choose_map,
    closed_forms,
    compare,
    lower_bound,
    print_choice,
    start_adaptor,
)


def clusters(count, width, *, centres=30, noise=0.5, rank=None, seed=0):
    """Return vectors around centres, in directions that no coordinate is aligned with."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.7
    if rank:
        spectrum[rank:] = 0
    x = (
        rng.standard_normal((centres, width))[rng.integers(0, centres, count)]
        + noise * rng.standard_normal((count, width))
    ) * spectrum
    return (x @ np.linalg.qr(rng.standard_normal((width, width)))[0]).astype(np.float32)


def setting(folder, vectors, *options):
    """Return method and data of a training on vectors."""
    np.save(folder / "base.npy", vectors)
    cfg = composed("train", "data=vectors", f"data.base={folder / 'base.npy'}", "model=adaptor", *options)
    data = construct(cfg.data)
    method = build_method(cfg, **data.inputs, num_classes=data.num_classes)
    start_adaptor(method, data)
    return method, data


def test_the_closed_forms_are_the_svd_of_directions_and_of_what_is_around_their_mean(tmp_path):
    vectors = clusters(300, 8) * np.random.default_rng(0).uniform(0.5, 2, (300, 1)) + 1
    rows, _ = read_rows(vectors, tmp_path)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for found, centred in zip(closed_forms(rows, rows), (unit, unit - unit.mean(axis=0)), strict=True):
        _, _, directions = np.linalg.svd(centred)
        np.testing.assert_allclose(np.abs(found), np.abs(directions.T), atol=1e-3)


def test_training_starts_at_the_closed_form_that_serves_better(tmp_path):
    vectors = clusters(1500, 16, centres=200, noise=0.1) + 20  # whose mean tells most of the cosines
    method, data = setting(tmp_path, vectors)
    uncentred, centred = closed_forms(data.rows["train"], data.rows["train"])
    np.testing.assert_allclose(method.backbone.start, uncentred, atol=1e-5)
    held_out = HeldOut.from_data(data)
    kept = [
        held_out.quality({"matrix": each.astype(np.float32)}, [8])[8].mean() for each in (uncentred, centred)
    ]
    assert kept[0] > kept[1]


def test_the_closed_form_of_pairs_keeps_what_queries_and_documents_share(tmp_path):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 8))
    loud = 3 * rng.standard_normal((2, 400, 1)) * np.eye(8)[:2][:, None]  # of each side alone
    sides = (shared + loud + 0.1 * rng.standard_normal((2, 400, 8))).astype(np.float32)
    basis = np.linalg.svd(shared, full_matrices=False)[2][:2]
    for found in closed_forms(*(read_rows(side, tmp_path)[0] for side in sides)):
        assert np.linalg.norm(basis @ found[:, :2]) > 1.3  # of sqrt(2) where both span the same


def test_a_bound_of_the_gain_is_valid_and_nears_the_mean():
    rng = np.random.default_rng(0)
    misses = sum(lower_bound(rng.choice([-1.0, 1.0], 200), 0.1) > 0 for _ in range(200))
    assert misses <= 20 + 3 * np.sqrt(200 * 0.1 * 0.9)
    gains = rng.choice([0.0, 0.2], 5000)
    assert 0.08 < lower_bound(gains, 0.01) < 0.1
    assert lower_bound(np.zeros(500), 0.01) < 0 and lower_bound(np.full(500, 0.1), 0.01) > 0.0


def test_a_map_that_helps_is_used_and_its_evidence_is_kept(tmp_path):
    method, data = setting(tmp_path, clusters(3000, 16))
    run = Run(tmp_path / "runs" / "x")
    run.folder.mkdir(parents=True)
    assert not choose_map(method, data, run)
    found, evidence = AdaptorFile.load(run.adaptor), read_object(run.folder / "adaptor.json")
    assert found.map == evidence["map"] == "trained" and evidence["adaptor"] == found.digest
    chosen = evidence["candidates"]["trained"]
    assert min(chosen["lower"]) >= 0 and chosen["gain"][0] > 0.1
    assert evidence["dims"] == [8, 16] and chosen["kept"][-1] == evidence["plain"][-1] == 1


def ndcg(right, found):
    """Return the mean nDCG of rows (Q, K) that are found where one (Q,) is right."""
    return ((found == right[:, None]) @ (1 / np.log2(np.arange(found.shape[1]) + 2))).mean()


def ranked(queries, database, k, own=False):
    """Return the k rows nearest by cosine, (Q, k), by brute force; `own`: queries are the first of them."""
    units = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (queries, database)]
    cosines = units[0] @ units[1].T
    if own:
        np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)[:, :k]


@pytest.mark.parametrize("similarity", ["inner_product", "l2"])
def test_maps_are_compared_by_the_similarity_that_is_asked_for(similarity, tmp_path):
    norms = np.random.default_rng(1).uniform(0.3, 3, (1500, 1)).astype(np.float32)
    vectors = clusters(1500, 16) * norms
    method, data = setting(tmp_path, vectors, f"data.similarity={similarity}")
    rows, _ = read_rows(vectors[data.rows["train"].numbers], tmp_path)
    forms = closed_forms(rows, rows, similarity)
    directions = np.linalg.svd(rows[:])[2]
    np.testing.assert_allclose(np.abs(forms[0]), np.abs(directions.T), atol=1e-3)  # of rows as they are
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    choose_map(method, data, run)
    found, evidence = AdaptorFile.load(run.adaptor), read_object(run.folder / "adaptor.json")
    assert found.similarity == similarity and evidence["map"] != "identity"
    held_out = HeldOut.from_data(data)
    z = [each.astype(np.float64) for each in (held_out.database, found.apply(held_out.database)[:, :8])]
    products = [x @ x.T for x in z]
    if similarity == "l2":
        products = [2 * x - np.diag(x) - np.diag(x)[:, None] for x in products]
    for scores in products:
        np.fill_diagonal(scores, -np.inf)
    true, ours = (np.argsort(-scores, axis=1)[:, :10] for scores in products)
    kept = evidence["candidates"][evidence["map"]]["kept"]
    assert kept[0] == pytest.approx(ndcg(true[:, 0], ours), abs=2e-3)


def test_a_map_that_was_ruined_gives_way_to_the_closed_form_and_that_to_identity(tmp_path):
    method, data = setting(tmp_path, clusters(3000, 16))
    adaptor = method.backbone
    assert isinstance(adaptor, Adaptor)
    adaptor.use(adaptor.start.numpy()[:, ::-1])
    assert choose_map(method, data, None)
    np.testing.assert_allclose(adaptor.arrays()["matrix"], adaptor.start, atol=1e-5)
    nested = clusters(3000, 16) @ adaptor.start.numpy()  # whose plain prefixes are the best already
    method, data = setting(tmp_path, nested.astype(np.float32))
    assert choose_map(method, data, None)
    np.testing.assert_allclose(method.backbone.arrays()["matrix"], np.eye(16), atol=1e-6)


def test_of_maps_that_all_help_the_one_that_keeps_most_is_used(tmp_path, capsys):
    method, data = setting(tmp_path, clusters(3000, 16))
    best = method.backbone.start.numpy()
    halves = best.copy()
    halves[:, :8] = best[:, :8][:, ::-1]  # the same span at 8 dims and at all
    blurred = best.copy()
    blurred[:, [7, 8]] = best[:, [8, 7]]  # one of the directions of 8 dims is the next one
    maps = {
        name: {"matrix": matrix}
        for name, matrix in (("blurred", blurred), ("best", best), ("as good", halves))
    }
    evidence = compare(maps, dict.fromkeys(maps, True), HeldOut.from_data(data), [8, 16])
    assert all(min(candidate["lower"]) >= 0 for candidate in evidence["candidates"].values())
    assert evidence["map"] == "best"
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    write_json(run.folder / "adaptor.json", evidence)
    print_choice(run)
    assert "not blurred: best keeps" in capsys.readouterr().out


def test_classifiers_are_fitted_anew_to_another_map(tmp_path):
    vectors = clusters(2000, 16, centres=3, noise=0.3)
    labels = np.argmax(vectors @ np.random.default_rng(3).standard_normal((16, 3)), axis=1)
    np.save(tmp_path / "labels.npy", labels)
    options = ["loss=mrl", f"data.labels={tmp_path / 'labels.npy'}", "data.neighbours=0"]
    method, data = setting(tmp_path, vectors, *options)
    method.backbone.use(method.backbone.start.numpy()[:, ::-1])
    assert choose_map(method, data, None)
    x, y, _ = next(iter(data.val_dataloader()))
    sums = method.validate(x, y)
    assert (sums[:, 1] / sums[:, -1]).min() > 0.8


def test_a_map_is_not_used_where_one_dim_gets_worse(tmp_path):
    method, data = setting(tmp_path, clusters(3000, 32), "model.kind=linear")
    adaptor = method.backbone
    weights = np.where(np.arange(32) < 24, 1, 0.01)  # all but the full width as the closed form
    adaptor.use(adaptor.start.double().numpy() * weights)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    assert choose_map(method, data, run)
    assert AdaptorFile.load(run.adaptor).map == "trained rotation"  # whose prefixes span the same
    np.testing.assert_allclose(np.abs(adaptor.arrays()["matrix"]), np.abs(adaptor.start), atol=1e-5)


def noise(scale):
    return np.random.default_rng(1).standard_normal((2000, 32)) * scale


ROW, COLUMN = np.arange(2000)[:, None], np.arange(32)
TWELVE = {
    "tiny": clusters(90, 16),
    "few rows, many dims": clusters(300, 64),
    "noisy": clusters(2000, 32, noise=4.0),
    "isotropic noise": noise(1),
    "already nested": noise((COLUMN + 1) ** -1.0),
    "copies": np.repeat(clusters(200, 16), 8, axis=0),
    "rank-deficient": clusters(2000, 32, rank=5),
    "mean far from zero": clusters(2000, 32) + 3,
    "one loud coordinate": clusters(2000, 32) * np.where(COLUMN == 31, 30, 1),
    "outliers": clusters(2000, 32) * np.where(ROW % 97 == 0, 100, 1),
    "few labels": clusters(2000, 32),
    "shifted queries": clusters(2000, 32),
}


def split(name):
    """Return the vectors of one of the twelve for training and unseen, and labels or queries of both."""
    vectors, rng = TWELVE[name].astype(np.float32), np.random.default_rng(2)
    more = {}
    if name == "few labels":
        more["labels"] = (vectors @ rng.standard_normal(32) > 0) + 2 * (vectors @ rng.standard_normal(32) > 0)
    if name == "shifted queries":
        more["queries"] = (vectors @ np.diag(rng.uniform(0, 1, 32)) + 0.3).astype(np.float32)
    order = rng.permutation(len(vectors))
    parts = np.array_split(order, [len(order) * 2 // 3])
    return [(vectors[part], {key: value[part] for key, value in more.items()}) for part in parts]


@pytest.mark.parametrize("name", TWELVE)
def test_no_dim_of_twelve_sets_is_below_the_plain_prefix(name, tmp_path):
    """On rows that neither training nor the choice has seen, with Holm's correction over sets and dims."""
    (base, more), (unseen, others) = split(name)
    options = ["data.share=0.3", "data.batch_size=128"]
    for key, value in more.items():
        np.save(tmp_path / f"{key}.npy", value)
    if "labels" in more:
        options.append(f"data.labels={tmp_path / 'labels.npy'}")
    if "queries" in more:
        np.save(tmp_path / "documents.npy", base)
        options.append(f"data.pairs=[{tmp_path / 'queries.npy'},{tmp_path / 'documents.npy'}]")
    method, data = setting(tmp_path, base, *options)
    train(method, data, steps=30)
    choose_map(method, data, None)
    held_out = HeldOut.of_rows(read_rows(unseen, tmp_path)[0], others.get("labels"))
    if "queries" in others:
        held_out = HeldOut(others["queries"], unseen, np.arange(len(unseen)), "pairs")
    dims = list(range(1, base.shape[1] + 1))
    plain, ours = (held_out.quality(arrays, dims) for arrays in (None, method.backbone.arrays()))
    losses = {dim: [plain[dim] - ours[dim]] for dim in dims}
    if not more:  # as many of the neighbours stay, too
        count, rows = len(held_out.queries), held_out.database
        both = rows, rows @ method.backbone.arrays()["matrix"]
        true = ranked(rows[:count], rows, 10, own=True)
        for dim in dims:
            found = [ranked(z[:count, :dim], z[:, :dim], 10, own=True) for z in both]
            before, after = ((one[:, :, None] == true[:, None]).any(axis=2).mean(axis=1) for one in found)
            losses[dim].append(before - after)
    for dim in dims:
        for loss in losses[dim]:
            error = loss.std(ddof=1) / np.sqrt(len(loss))
            # Holm's first level, 0.05 of 12 sets of up to 64 dims, is 4 standard errors.
            assert loss.mean() <= max(4 * error, 1e-4), (dim, loss.mean(), error)


def train(method, data, steps):
    import torch

    method.train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    batches = (batch for _ in range(steps) for batch in data.train_dataloader())
    for _, (x, y, _) in zip(range(steps), batches, strict=False):
        out = method(x, y)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()


@pytest.mark.slow
def test_the_command_of_the_page_trains_prints_and_embeds(tmp_path):
    np.save(tmp_path / "base.npy", clusters(3000, 16))
    options = ["data=vectors", f"data.base={tmp_path / 'base.npy'}", "model=adaptor", "logger=csv"]
    said = succeed("train.py", *options, f"root={tmp_path}", "epochs=1")
    assert "promised with 95% confidence: none" in said and "adaptor: " in said
    run = Run(tmp_path / "runs" / "similarity_distillation_adaptor_vectors_s0")
    out = tmp_path / "small.npy"
    said = succeed("embed.py", f"run={run.name}", f"root={tmp_path}", f"out={out}", "dim=8")
    adaptor = AdaptorFile.load(run.adaptor)
    assert adaptor.digest in said
    z = adaptor.apply(np.load(tmp_path / "base.npy"))
    np.testing.assert_allclose(np.load(out), z[:, :8], atol=1e-5)
    said = succeed("embed.py", f"run={run.name}", f"root={tmp_path}", "splits=[val]")
    assert "evaluation=agreement" in said
    meta = read_object(run.embeddings("vectors", "val") / "meta.json")
    assert meta["adaptor"] == adaptor.digest and meta["labelled"] is False
    again = succeed("train.py", *options, f"root={tmp_path}", "epochs=1")
    assert "is finished already" in again and "promised" in again


def asymmetric(count=3000, width=16, seed=5):
    """Return documents, and queries of another encoding: of few directions, around another mean."""
    rng = np.random.default_rng(seed)
    documents = clusters(count, width, centres=300, noise=0.3, seed=seed)
    turned = np.linalg.qr(rng.standard_normal((width, width)))[0]
    queries = documents @ (np.eye(width) + 0.3 * turned) + 0.5 * rng.standard_normal((count, width))
    return documents, queries.astype(np.float32)


def test_queries_of_an_encoding_of_their_own_train_and_judge_the_map(tmp_path):
    documents, queries = asymmetric()
    np.save(tmp_path / "queries.npy", queries[:1500])
    method, data = setting(tmp_path, documents, f"data.queries={tmp_path / 'queries.npy'}")
    assert method.backbone.kind == "orthogonal" and "pairs" not in data.inputs
    (x, found), y, _ = next(iter(data.train_dataloader()))
    base = data.rows["train"][:]
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    best = (x.numpy() @ unit.T).argmax(axis=1)
    np.testing.assert_array_equal(found, base[best])  # the nearest document is a query's positive
    held_out = HeldOut.from_data(data)
    assert held_out.of == "queries" and method(tuple((x, found)), y).count == 2 * len(x)
    kept = held_out.quality({"matrix": method.backbone.arrays()["matrix"]}, [8, 16])
    z = [each @ method.backbone.arrays()["matrix"][:, :8] for each in (held_out.queries, held_out.database)]
    nearest = ranked(held_out.queries, held_out.database, 1)[:, 0]
    expected = ndcg(nearest, ranked(*z, held_out.k))
    assert kept[8].mean() == pytest.approx(expected, abs=2e-3) and (kept[16] > 0.99).all()


@pytest.mark.slow
def test_two_maps_are_trained_chosen_written_and_applied_each_to_its_side(tmp_path):
    from mrl_experiments.reductions.adaptor import Adaptor as Reduction

    documents, queries = asymmetric()
    np.savez(tmp_path / "pairs.npz", queries=queries, positives=documents)
    options = [f"data.pairs={tmp_path / 'pairs.npz'}", "model.two_maps=true", "data.share=0.3"]
    method, data = setting(tmp_path, documents, *options)
    adaptor, optimizer = method.backbone, torch.optim.Adam(method.parameters(), lr=0.01)
    np.testing.assert_allclose(adaptor.query.weight.detach(), adaptor.linear.weight.detach())
    for _ in range(10):
        for x, y, _ in data.train_dataloader():
            optimizer.zero_grad()
            method(x, y).loss.backward()
            optimizer.step()
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    choose_map(method, data, run)
    found = AdaptorFile.load(run.adaptor)
    assert found.map == "trained" and found.two_maps
    matrices = [adaptor.arrays()[name] for name in ("query_matrix", "matrix")]
    fitted = Reduction(1, str(run.adaptor)).fit(None, 0)
    for side, matrix in zip((fitted.of_queries, fitted), matrices, strict=True):
        np.testing.assert_allclose(side.transform(queries), queries @ matrix, atol=1e-5)
    held_out = HeldOut.from_data(data)
    z = [x @ m for x, m in zip((held_out.queries, held_out.database), matrices, strict=True)]
    expected = ndcg(held_out.answers, ranked(*(each[:, :8] for each in z), held_out.k))
    assert held_out.quality(found.arrays, [8])[8].mean() == pytest.approx(expected, abs=1e-3)
    with pytest.raises(UserError, match="two_maps"):
        setting(tmp_path, documents, "model.two_maps=true")
