"""Every policy on no, one, or odd samples, and inputs that do not fit."""

import numpy as np
import pytest

from mrl_experiments.adaptive.classification.cascade import full_cascade
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier
from mrl_experiments.adaptive.classification.exits import read_exits
from mrl_experiments.adaptive.classification.policies.joint import Joint
from mrl_experiments.adaptive.classification.policies.paper import Paper
from mrl_experiments.adaptive.classification.policies.risk_control import RiskControl
from mrl_experiments.adaptive.classification.policies.uniform import Uniform
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads

DIMS = (4, 8, 16)
FITTED = [Joint(), Joint(0.1), Paper(), Paper(cap=8), RiskControl(), RiskControl(0.5)]


def logits(count, classes, shift):
    """Return logits whose label leads (shift > 0) or never does (shift < 0), and labels."""
    random = np.random.default_rng(count)
    labels = random.integers(0, classes, count)
    tables = {dim: random.normal(size=(count, classes)).astype(np.float32) for dim in DIMS}
    for table in tables.values():
        table[np.arange(count), labels] += shift
    return tables, labels


@pytest.mark.parametrize("policy", [*FITTED, Uniform(0.5)], ids=lambda policy: str(policy.setting))
@pytest.mark.parametrize("shift", [0, 50, -50])
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_few_samples_all_right_or_all_wrong_give_a_cascade(policy, count, classes, shift):
    tables, labels = logits(count, classes, shift)
    classifier = AdaptiveClassifier().fit(policy, tables, labels)
    answers = classifier.predict(tables)
    exits = read_exits(tables)
    right = exits.correct(labels)
    assert set(answers.dims.tolist()) <= set(DIMS)
    if isinstance(policy, Joint):  # its promise on the samples it was fitted to
        assert (answers.labels == labels).mean() >= right[-1].mean() - policy.drop - 1e-9
    if isinstance(policy, RiskControl) and count == 1:
        assert policy.fit(exits, labels) == full_cascade(DIMS)  # one sample shows nothing


@pytest.mark.parametrize("policy", FITTED, ids=lambda policy: str(policy.setting))
def test_no_samples_are_refused(policy):
    tables, labels = logits(0, 3, 0)
    with pytest.raises(UserError, match="0 labels for 0 samples"):
        AdaptiveClassifier().fit(policy, tables, labels)
    with pytest.raises(UserError, match="0 labels for 0 samples"):
        policy.fit(read_exits(tables), labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", np.int64])
def test_other_number_types_are_read(dtype):
    tables, labels = logits(30, 4, 3)
    given = {dim: (4 * table).astype(dtype) for dim, table in tables.items()}
    plain = {dim: table.astype(np.float32) for dim, table in given.items()}
    found, expected = (
        AdaptiveClassifier().fit(Joint(), part, labels).predict(part) for part in (given, plain)
    )
    np.testing.assert_array_equal(found.labels, expected.labels)


TABLES, ANSWERS = logits(6, 3, 1)
HEADS = Heads({dim: np.ones((3, dim), np.float32) for dim in DIMS}, dict.fromkeys(DIMS, np.zeros(3)), False)
FEATURES = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)


def fit(tables=TABLES, labels=ANSWERS):
    return AdaptiveClassifier().fit(Paper(), tables, labels)


def fit_features(features=FEATURES, labels=ANSWERS):
    return AdaptiveClassifier(HEADS).fit(Paper(), features, labels)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: fit(labels=ANSWERS + 3), "a label 5"),
        (lambda: fit_features(labels=ANSWERS + 3), "a label 5"),
        (lambda: fit(labels=ANSWERS / 1), "type float64"),
        (lambda: fit(labels=ANSWERS.astype(str)), "type <U"),
        (lambda: fit(labels=ANSWERS[:, None]), r"shape \(6, 1\)"),
        (lambda: fit(labels=ANSWERS[:5]), "5 labels for 6 samples"),
        (lambda: fit(labels=-ANSWERS - 1), "0 labels for 6 samples"),
        (lambda: fit(tables={**TABLES, 8: TABLES[8][:, :2]}), "classes at each dim"),
        (lambda: fit(tables={**TABLES, 8: TABLES[8][0]}), r"logits at 8 dims of shape \(3,\)"),
        (lambda: fit(tables={**TABLES, 8: TABLES[8] * np.float32("nan")}), "NaN"),
        (lambda: fit(tables={}), "do not nest"),
        (lambda: fit_features(FEATURES[:, :9]), "features of width 9"),
        (lambda: fit_features(FEATURES[0]), r"features of shape \(16,\)"),
        (lambda: fit_features().predict(FEATURES[:, :3]), "features of width 3"),
        (lambda: fit_features().predict(FEATURES * np.float32("nan")), "NaN"),
        (lambda: fit().predict({4: TABLES[4]}), r"no logits at \[.*16\] dims"),
        (lambda: Paper(points=0), "0 thresholds"),
        (lambda: Paper(highest=2.0), "within"),
        (lambda: Joint(float("nan")), "drop=nan"),
        (lambda: RiskControl(delta=float("nan")), "delta=nan"),
        (lambda: Uniform(float("nan")).cascade(DIMS), "nan"),
    ],
)
def test_what_does_not_fit_is_refused(mistake, message):
    with pytest.raises(UserError, match=message):
        mistake()
