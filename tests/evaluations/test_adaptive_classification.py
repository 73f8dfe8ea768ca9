from functools import partial

import numpy as np
import pytest

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.policies import joint, paper, risk_control
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.adaptive_classification import adaptive_classification
from mrl_experiments.heads import Heads
from mrl_experiments.results import Setting

DIMS, CLASSES, SPLITS = (4, 8, 16), 5, 3
POLICIES = [
    paper.sweep,
    partial(joint.sweep, drops=[0.0, 0.05]),
    partial(risk_control.sweep, drops=[0.1], delta=0.1),
]


def embeddings(tied=False, heads=True, meta=None, count=400):
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, DIMS[-1])).astype(np.float32)
    labels = generator.integers(CLASSES, size=count)
    features = centres[labels] + 1.2 * generator.normal(size=(count, DIMS[-1])).astype(np.float32)
    own = DIMS[-1:] if tied else DIMS
    weights = {dim: centres[:, :dim] for dim in own}
    biases = {dim: -(centres[:, :dim] ** 2).sum(axis=1) / 2 for dim in own}
    classifiers = Heads(weights, biases, tied) if heads else None
    return Embeddings(features, labels, classifiers, {"dims": DIMS, **(meta or {})})


def evaluate(queries, dims=DIMS, policies=POLICIES, **options):
    options = {"splits": SPLITS, "fit_share": 0.2, "present_classes_only": False, **options}
    rows = adaptive_classification(queries, None, dims, policies=policies, **options)
    return {(str(row.setting), row.dim, row.metric): row.value for row in rows}


def test_single_sizes_equal_a_plain_loop():
    queries = embeddings()
    values = evaluate(queries)
    for dim in DIMS:
        hits = []
        for seed in range(SPLITS):
            measured = np.random.default_rng(seed).permutation(400)[80:]
            logits = queries.heads.logits(queries.features[measured], dim)
            hits.append((logits.argmax(axis=1) == queries.labels[measured]).mean())
        assert values["policy=single tta=none", dim, "top1"] == pytest.approx(np.mean(hits))
        assert values["policy=single tta=none", dim, "top1_std"] == pytest.approx(np.std(hits, ddof=1))
        assert values["policy=single tta=none", dim, "expected_dim"] == dim
        assert values["policy=single tta=none", dim, "head_macs"] == dim * CLASSES


def test_a_cascade_is_fitted_on_one_part_and_measured_on_the_other():
    queries = embeddings()
    fitted_counts = []

    def smallest_only(exits, labels):
        fitted_counts.append(len(labels))
        return {Setting(policy="smallest"): Cascade(exits.dims, (0.0, 0.0))}

    values = evaluate(queries, policies=[smallest_only])
    assert fitted_counts == [80] * SPLITS
    for metric in ("top1", "top1_std", "expected_dim", "expected_dim_cumulative", "head_macs"):
        alone = values["policy=single tta=none", 4, metric]
        assert values["policy=smallest tta=none", 16, metric] == alone


def test_a_cascade_that_never_exits_early_costs_what_is_computed():
    def always(exits, labels):
        return {Setting(policy="always"): Cascade(exits.dims, (0.999999,) * (len(exits.dims) - 1))}

    values = evaluate(embeddings(), policies=[always])
    setting = "policy=always tta=none"
    assert values[setting, 16, "expected_dim"] == pytest.approx(16, abs=0.5)
    assert values[setting, 16, "expected_dim_cumulative"] == pytest.approx(4 + 8 + 16, abs=1)
    assert values[setting, 16, "head_macs"] == values[setting, 16, "expected_dim_cumulative"] * CLASSES


def test_tied_classifiers_pay_for_the_last_size_only():
    values = evaluate(embeddings(tied=True))
    setting = "policy=paper cap=16 tta=none"
    assert values[setting, 16, "head_macs"] == pytest.approx(values[setting, 16, "expected_dim"] * CLASSES)


def test_every_policy_and_the_oracle_have_rows():
    values = evaluate(embeddings(meta={"tta": True}))
    assert {setting for setting, _, _ in values} == {
        "policy=single tta=flip",
        "policy=paper cap=8 tta=flip",
        "policy=paper cap=16 tta=flip",
        "policy=joint drop=0 tta=flip",
        "policy=joint drop=0.05 tta=flip",
        "policy=risk_control drop=0.1 delta=0.1 tta=flip",
        "policy=oracle tta=flip",
    }
    oracle = {key[2]: value for key, value in values.items() if key[0] == "policy=oracle tta=flip"}
    assert oracle["top1"] == pytest.approx(1 - oracle["always_wrong"])


@pytest.mark.parametrize(("trained", "compared"), [(DIMS, {4, 8, 16}), ((16,), {8, 16})])
def test_interpolated_dims_are_left_out(trained, compared):
    queries = embeddings(tied=True, meta={"dims": trained})
    values = evaluate(queries, dims=(4, 6, 8, 12, 16))
    assert {dim for _, dim, _ in values} == compared


def test_a_run_of_one_size_has_single_rows_and_an_oracle():
    queries = embeddings(meta={"dims": (8,)})
    values = evaluate(queries, dims=(8,))
    assert {setting for setting, _, _ in values} == {"policy=single tta=none", "policy=oracle tta=none"}


def test_an_oracle_of_present_classes_ignores_the_others():
    everything = embeddings()
    rows = everything.labels != 1
    queries = Embeddings(
        everything.features[rows], everything.labels[rows], everything.heads, everything.meta
    )
    right = []
    for dim in DIMS:
        logits = queries.heads.logits(queries.features, dim)
        logits[:, 1] = -np.inf
        right.append(logits.argmax(axis=1) == queries.labels)
    values = evaluate(queries, present_classes_only=True)
    assert values["policy=oracle tta=none", 16, "top1"] == pytest.approx(np.any(right, axis=0).mean())
    assert values["policy=oracle tta=none", 4, "first_correct"] == pytest.approx(right[0].mean())
    assert evaluate(queries)["policy=oracle tta=none", 4, "first_correct"] < right[0].mean()


def test_missing_classifiers_and_labels_are_refused():
    with pytest.raises(UserError, match="no classifiers"):
        evaluate(embeddings(heads=False))
    queries = embeddings()
    queries.labels[3] = -1
    with pytest.raises(UserError, match="1 of 400 labels are not among the 5 classes"):
        evaluate(queries)


@pytest.mark.parametrize(
    "options", [{"fit_share": 0.0}, {"fit_share": 1.0}, {"fit_share": 1e-4}, {"splits": 0}]
)
def test_impossible_splits_are_refused(options):
    with pytest.raises(UserError, match="fit_share"):
        evaluate(embeddings(), **options)


def test_a_promise_that_saves_nothing_is_told_once_with_the_samples_it_takes(capsys):
    evaluate(embeddings(), policies=[partial(risk_control.sweep, drops=[0.001], delta=0.1)])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "nothing is saved" in line]
    assert line.startswith("policy=risk_control drop=0.001 delta=0.1: every sample is answered at 16 dims")
    assert f"{risk_control.samples_needed(0.001, 0.1):,} labelled samples and has 80" in line
    evaluate(embeddings(), policies=[paper.sweep], dims=(8, 16))
    assert "policy=single" not in capsys.readouterr().out
