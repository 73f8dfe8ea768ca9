import functools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, top_k_accuracy_score
from sklearn.preprocessing import StandardScaler

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.probe import lbfgs, probe, sgd
from mrl_experiments.evaluations.trained_head import trained_head
from mrl_experiments.heads import Heads
from mrl_experiments.metrics.likelihood import scores

CLASSES = 9


def samples(seed, count=700, heads=None, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(99).standard_normal((CLASSES, 16)) * np.linspace(0.1, 3, 16)
    features = (centres[labels] + noise * rng.standard_normal((count, 16))).astype(np.float32)
    return Embeddings(features, labels, heads, {"dims": [4, 8, 16]})


def separate_heads():
    rng = np.random.default_rng(1)
    return Heads(
        {d: rng.standard_normal((CLASSES, d), dtype=np.float32) for d in (4, 16)},
        {d: rng.standard_normal(CLASSES, dtype=np.float32) for d in (4, 16)},
        tied=False,
    )


def table(measurements):
    return {(m.dim, m.metric): m.value for m in measurements}


def test_linear_against_scikit_learn_and_torchmetrics():
    from torchmetrics.functional.classification import multiclass_accuracy  # which is dear to every worker

    queries = samples(0, 20_000, separate_heads())  # more than a block
    found = table(trained_head(queries, None, [4, 8, 16], present_classes_only=False))
    assert {dim for dim, _ in found} == {4, 16}  # 8 has no head
    for dim in (4, 16):
        weight, bias = queries.heads.at(dim)
        logits = (queries.features[:, :dim] @ weight.T + bias).astype(np.float64)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        classes = range(CLASSES)
        assert found[dim, "top1"] == pytest.approx(
            top_k_accuracy_score(queries.labels, p, k=1, labels=classes)
        )
        assert found[dim, "top5"] == pytest.approx(
            top_k_accuracy_score(queries.labels, p, k=5, labels=classes)
        )
        nll = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(queries.labels))
        assert found[dim, "nll"] == pytest.approx(nll.item(), rel=1e-5)
        micro = multiclass_accuracy(
            torch.tensor(logits), torch.tensor(queries.labels), CLASSES, average="micro", top_k=5
        )
        assert found[dim, "top5"] == pytest.approx(micro.item())
        assert found[dim, "macs"] == dim * CLASSES


def test_equal_logits_count_against_the_label():
    logits = np.zeros((CLASSES, CLASSES), np.float32)
    hits = scores(logits, np.arange(CLASSES))
    assert not hits[:, :2].any()
    np.testing.assert_allclose(hits[:, 2], np.log(CLASSES))


def test_present_classes_only_ignores_the_others():
    heads = separate_heads()
    everything = samples(0, 400, heads)
    rows = everything.labels < 3
    queries = Embeddings(everything.features[rows], everything.labels[rows], heads, everything.meta)
    found = table(trained_head(queries, None, [16], present_classes_only=True))
    weight, bias = heads.at(16)
    predicted = (queries.features @ weight[:3].T + bias[:3]).argmax(1)
    assert found[16, "top1"] == np.mean(predicted == queries.labels)
    assert found[16, "top5"] == 1


def test_linear_bad_input():
    with pytest.raises(UserError, match="no classifiers"):
        list(trained_head(samples(0), None, [4], present_classes_only=False))
    with pytest.raises(UserError, match=r"no classifier at dims=\[8\]"):
        list(trained_head(samples(0, heads=separate_heads()), None, [8], present_classes_only=False))
    queries = samples(0, 20, separate_heads())
    strangers = Embeddings(queries.features, queries.labels + 5, queries.heads, queries.meta)
    with pytest.raises(UserError, match="not among the 9 classes"):
        list(trained_head(strangers, None, [4], present_classes_only=False))


def test_lbfgs_probe_against_scikit_learn():
    train, queries = samples(0, 600), samples(1, 300)
    l2 = 1e-2
    solver = functools.partial(lbfgs, iterations=300, l2=l2)
    found = table(probe(queries, train, [4, 16], solver=solver, seed=0))
    for dim in (4, 16):
        scaler = StandardScaler().fit(train.at(dim))
        model = LogisticRegression(C=1 / (l2 * len(train)), max_iter=2000, tol=1e-8)
        model.fit(scaler.transform(train.at(dim)), train.labels)
        p = model.predict_proba(scaler.transform(queries.at(dim)))
        assert found[dim, "nll"] == pytest.approx(log_loss(queries.labels, p), abs=2e-3)
        assert found[dim, "top1"] == pytest.approx(np.mean(p.argmax(1) == queries.labels), abs=0.01)


def test_sgd_probe_is_seeded_and_comes_near_lbfgs():
    train, queries = samples(0, 600), samples(1, 300)
    solver = functools.partial(sgd, epochs=30, batch_size=50, lr=0.1, l2=1e-2)
    first, again, other = (table(probe(queries, train, [8], solver=solver, seed=s)) for s in (0, 0, 1))
    assert first == again != other
    exact = table(
        probe(queries, train, [8], solver=functools.partial(lbfgs, iterations=300, l2=1e-2), seed=0)
    )
    assert first[8, "nll"] == pytest.approx(exact[8, "nll"], abs=0.02)


def test_probe_takes_constant_features_and_any_label_values():
    train, queries = samples(0, 300, noise=0.1), samples(1, 100, noise=0.1)
    for split in (train, queries):
        split.features[:, 3] = 1
        split.labels[:] = split.labels * 1000 + 7
    solver = functools.partial(lbfgs, iterations=50, l2=1e-6)
    assert table(probe(queries, train, [16], solver=solver, seed=0))[16, "top1"] == 1


def test_probe_bad_input():
    solver = functools.partial(lbfgs, iterations=1, l2=0)
    with pytest.raises(UserError, match="no database for these queries"):
        list(probe(samples(0), None, [4], solver=solver, seed=0))
    strangers = samples(0, 20)
    strangers.labels[3] = 77
    with pytest.raises(UserError, match=r"1 of 20 queries have a label that is missing(.|\n)*77"):
        list(probe(strangers, samples(1), [4], solver=solver, seed=0))
