import json
import os

import numpy as np
import pytest

from mrl_experiments.adaptive.classification.classifier import CASCADE, HEADS, AdaptiveClassifier
from mrl_experiments.adaptive.classification.policies.joint import Joint
from mrl_experiments.adaptive.classification.policies.paper import Paper
from mrl_experiments.adaptive.classification.policies.risk_control import RiskControl
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads

POLICIES = [Paper(), Paper(cap=16), Joint(0.01), RiskControl(0.05)]


def halves(sample):
    middle = len(sample.labels) // 2
    return slice(0, middle), slice(middle, None)


@pytest.fixture
def fitted(digits):
    fit, _ = halves(digits)
    classifier = AdaptiveClassifier(digits.heads)
    return classifier.fit(Joint(0.01), digits.features[fit], digits.labels[fit], split="digits/fit")


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.setting))
def test_answers_are_those_of_the_size_used(digits, policy):
    fit, new = halves(digits)
    classifier = AdaptiveClassifier(digits.heads).fit(policy, digits.features[fit], digits.labels[fit])
    answers = classifier.predict(digits.features[new])
    rows = np.asarray([digits.exits.dims.index(dim) for dim in answers.dims])
    samples = np.arange(len(digits.labels))[new]
    np.testing.assert_array_equal(answers.labels, digits.exits.predicted[rows, samples])
    np.testing.assert_allclose(answers.confidence, digits.exits.confidence[rows, samples], rtol=1e-5)
    assert (answers.labels == digits.labels[new]).mean() > 0.85
    assert answers.dims.mean() < 32


def test_logits_and_features_agree(digits, fitted):
    fit, new = halves(digits)
    logits = {dim: digits.heads.logits(digits.features, dim) for dim in digits.heads.dims()}
    other = AdaptiveClassifier().fit(Joint(0.01), {d: z[fit] for d, z in logits.items()}, digits.labels[fit])
    ours, theirs = fitted.predict(digits.features[new]), other.predict({d: z[new] for d, z in logits.items()})
    assert np.mean(ours.dims == theirs.dims) > 0.99
    assert np.mean(ours.labels == theirs.labels) > 0.99


def test_the_size_used_is_where_the_cascade_stops(digits):
    classifier = AdaptiveClassifier(digits.heads).fit(Paper(), digits.features, digits.labels)
    stop = classifier.cascade.stop(digits.exits)
    expected = np.asarray(digits.exits.dims)[stop]
    assert (
        np.mean(classifier.predict(digits.features).dims == expected) > 0.999
    )  # a product may round otherwise


def test_a_tied_classifier_serves_the_stated_sizes(digits):
    weight, bias = digits.heads.at(64)
    tied = Heads({64: weight}, {64: bias}, tied=True)
    classifier = AdaptiveClassifier(tied).fit(Paper(), digits.features, digits.labels, dims=(16, 32, 64))
    assert set(classifier.predict(digits.features).dims) <= {16, 32, 64}


@pytest.mark.parametrize("with_heads", [True, False])
def test_save_and_load_keep_every_answer(digits, tmp_path, with_heads):
    inputs = digits.features
    if not with_heads:
        inputs = {dim: digits.heads.logits(inputs, dim) for dim in digits.heads.dims()}
    classifier = AdaptiveClassifier(digits.heads if with_heads else None)
    classifier.fit(RiskControl(0.05), inputs, digits.labels, split="val")
    classifier.save(tmp_path / "deployed")
    loaded = AdaptiveClassifier.load(tmp_path / "deployed")
    before, after = classifier.predict(inputs), loaded.predict(inputs)
    for name in ("labels", "dims", "confidence"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert (loaded.policy, loaded.fitted_on) == (
        {"policy": "risk_control", "drop": 0.05, "delta": 0.1},
        "val",
    )


def test_an_unfitted_classifier_is_refused(digits, tmp_path):
    for use in (lambda c: c.predict(digits.features), lambda c: c.save(tmp_path)):
        with pytest.raises(UserError, match="no thresholds yet"):
            use(AdaptiveClassifier(digits.heads))


def test_the_split_it_was_fitted_on_is_refused(digits, fitted, tmp_path):
    fitted.save(tmp_path)
    for classifier in (fitted, AdaptiveClassifier.load(tmp_path)):
        with pytest.raises(UserError, match="fitted on the split 'digits/fit'"):
            classifier.predict(digits.features, split="digits/fit")
        classifier.predict(digits.features, split="digits/test")


def test_missing_labels_are_refused(digits):
    with pytest.raises(UserError, match="0 labels for 1197 samples"):
        AdaptiveClassifier(digits.heads).fit(Paper(), digits.features, None)


def test_one_size_cannot_nest(digits):
    with pytest.raises(UserError, match="do not nest"):
        AdaptiveClassifier(digits.heads).fit(Paper(), digits.features, digits.labels, dims=(8,))


@pytest.mark.parametrize(
    "content, said",
    [
        ("", r"cascade\.json is damaged"),
        ('{"version": 1, "dims"', r"cascade\.json is damaged"),
        ('{"version": 9}', "version 9"),
        ('{"version": 1}', r"cascade\.json is damaged: 'dims'"),
        ("[]", r"cascade\.json is damaged"),
        ('{"version": 1, "dims": [16, 8], "thresholds": [0.5]}', r"cascade\.json is damaged: the dims"),
        (None, "no complete adaptive classifier"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / CASCADE).write_text(content)
    with pytest.raises(UserError, match=said):
        AdaptiveClassifier.load(tmp_path)


def test_classifiers_that_changed_or_are_of_another_are_refused(digits, fitted, tmp_path):
    fitted.save(tmp_path / "one")
    other = AdaptiveClassifier(digits.heads.of_classes(np.arange(9, -1, -1)))
    other.cascade = fitted.cascade
    other.save(tmp_path / "two")
    heads = tmp_path / "one" / HEADS
    content = bytearray(heads.read_bytes())
    content[-3] ^= 1
    for changed in (bytes(content), content[:-1], (tmp_path / "two" / HEADS).read_bytes(), b""):
        heads.write_bytes(changed)
        with pytest.raises(UserError, match=rf"{HEADS} has changed since it was written"):
            AdaptiveClassifier.load(tmp_path / "one")
    heads.unlink()
    with pytest.raises(UserError, match=rf"{HEADS} is missing"):
        AdaptiveClassifier.load(tmp_path / "one")


def test_thresholds_of_before_there_were_checksums_are_read(fitted, tmp_path):
    fitted.save(tmp_path)
    stored = json.loads((tmp_path / CASCADE).read_text())
    del stored["digest"]
    (tmp_path / CASCADE).write_text(json.dumps({**stored, "heads": True}))
    assert AdaptiveClassifier.load(tmp_path).cascade == fitted.cascade
    (tmp_path / HEADS).unlink()
    os.mkfifo(tmp_path / HEADS)  # reading it would wait without end
    with pytest.raises(UserError, match=rf"{HEADS} is a pipe"):
        AdaptiveClassifier.load(tmp_path)
