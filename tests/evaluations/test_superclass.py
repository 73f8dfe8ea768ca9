"""Accuracy over superclasses and inside them, against loops; trends, rule by rule."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from timm.data import ImageNetInfo

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.superclass import IMAGENET, superclass
from mrl_experiments.evaluations.trends import trend, trends
from mrl_experiments.heads import Heads

DIMS, CLASSES = (2, 4, 8), 12
GROUPS = ["fish", "bird", "fish", "cat", "bird", "fish", None, "fish", "cat", "bird", "dog", None]


def embeddings(count=3000, classes=None, **changes):
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, 8)).astype(np.float32)
    labels = random.integers(0, CLASSES, count)
    features = centres[labels] + random.normal(size=(count, 8)).astype(np.float32)
    heads = Heads({d: centres[:, :d] for d in DIMS}, {d: np.zeros(CLASSES, np.float32) for d in DIMS}, False)
    known = {"name": [f"c{i}" for i in range(CLASSES)], "superclass": GROUPS} if classes is None else classes
    values = {"features": features, "labels": labels, "heads": heads, **changes}
    return Embeddings(**values, meta={"dims": DIMS, "dataset": "zoo"}, classes=known)


def run(queries, **options):
    options = {"mapping": None, "superclasses": 3, "within": None, **options}
    rows = superclass(queries, None, [*DIMS, 6], **options)  # 6 has no head
    return {(row.dim, str(row.setting), row.metric): row.value for row in rows}


def test_against_a_loop_over_samples():
    queries = embeddings()
    found = run(queries)
    kept = {"fish", "bird", "cat"}  # with 4, 3 and 2 classes; dog and those without are the reject
    group = [name if name in kept else "reject" for name in GROUPS]
    for dim in DIMS:
        coarse, fine = [], {name: [] for name in kept}
        for logits, label in zip(queries.heads.logits(queries.features, dim), queries.labels, strict=True):
            coarse.append(group[logits.argmax()] == group[label])
            if group[label] in kept:
                inside = [c for c in range(CLASSES) if group[c] == group[label]]
                fine[group[label]].append(max(inside, key=lambda c: logits[c]) == label)
        assert found[dim, "superclasses=3", "top1"] == pytest.approx(np.mean(coarse))
        for name, hits in fine.items():
            assert found[dim, f"within={name}", "top1"] == pytest.approx(np.mean(hits))
        every = [hit for hits in fine.values() for hit in hits]
        assert found[dim, "within=all", "top1"] == pytest.approx(np.mean(every))
    counts = {setting: value for (_, setting, metric), value in found.items() if metric == "classes"}
    assert counts == {"within=all": 9, "within=fish": 4, "within=bird": 3, "within=cat": 2}
    assert {dim for dim, _, _ in found} == set(DIMS)


def test_a_mapping_file_replaces_the_data_sets_own(tmp_path):
    queries = embeddings(classes={"name": [f"c{i}" for i in range(CLASSES)]})
    named = {f"c{i}": name for i, name in enumerate(GROUPS) if name}
    (tmp_path / "map.json").write_text(json.dumps(named))
    lines = "".join(f"{name},{value}\n" for name, value in named.items())
    (tmp_path / "map.csv").write_text(f"class,superclass\n{lines}")
    expected = run(embeddings())
    assert run(queries, mapping=str(tmp_path / "map.json")) == expected
    assert run(queries, mapping=str(tmp_path / "map.csv")) == expected


def test_only_those_asked_for_have_rows_of_their_own():
    found = run(embeddings(), within=["cat"])
    assert {setting for _, setting, metric in found if metric == "top1"} == {
        "superclasses=3",
        "within=all",
        "within=cat",
    }


def test_imagenets_superclasses_are_those_of_the_paper():
    with IMAGENET.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sizes = Counter(row["superclass"] for row in rows)
    assert len(sizes) == 30 and len(rows) == 467  # Table 24
    assert {row["class"] for row in rows} <= set(ImageNetInfo("imagenet-1k").label_names())
    of = {row["class"]: row["superclass"] for row in rows}
    assert of["n01440764"] == "fish" and of["n02119789"] == "canine"  # tench, kit fox
    assert of["n02105641"] == "sheepdog" and "n02085620" not in of  # Old English sheepdog, Chihuahua
    assert all(name.split() == [name] for name in sizes)


def test_bad_superclasses(tmp_path):
    with pytest.raises(UserError, match=r"evaluation\.superclasses=5(.|\n)*2 to 4"):
        run(embeddings(), superclasses=5)
    with pytest.raises(UserError, match=r"within has cow(.|\n)*fish, bird, cat"):
        run(embeddings(), within=["cow"])
    with pytest.raises(UserError, match=r"nothing says the superclass of the classes of zoo(.|\n)*embed\.py"):
        run(embeddings(classes={"name": [f"c{i}" for i in range(CLASSES)]}))
    with pytest.raises(UserError, match="does not exist"):
        run(embeddings(), mapping=str(tmp_path / "absent.csv"))
    (tmp_path / "odd.json").write_text(json.dumps({"c0": "fish", "zebra": "cat"}))
    with pytest.raises(UserError, match=r"1 classes that zoo lacks, such as zebra"):
        run(embeddings(), mapping=str(tmp_path / "odd.json"))
    (tmp_path / "three.csv").write_text("class,superclass\nc0,fish,wet\n")
    with pytest.raises(UserError, match="is no mapping"):
        run(embeddings(), mapping=str(tmp_path / "three.csv"))
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="it holds a list"):
        run(embeddings(), mapping=str(tmp_path / "list.json"))
    with pytest.raises(UserError, match="no classifiers"):
        run(embeddings(heads=None))
    with pytest.raises(UserError, match="the data set numbers 5 classes, the classifier 12"):
        run(embeddings(labels=np.zeros(3000, np.int64), classes={"name": list("abcde")}))


@pytest.mark.parametrize(
    ("name", "accuracies"),
    [
        ("up", [0.1, 0.1, 0.3, 0.3, 0.4]),
        ("up", [0.1, 0.2]),
        ("up_then_dip", [0.1, 0.5, 0.5, 0.4, 0.2]),
        ("none", [0.1, 0.5, 0.1]),  # falls as much as it rose
        ("none", [0.2, 0.5, 0.1]),
        ("down_then_up", [0.5, 0.4, 0.4, 0.45, 0.9]),
        ("down_then_up", [0.5, 0.1, 0.2]),
        ("none", [0.5, 0.4, 0.4]),
        ("none", [0.1, 0.3, 0.2, 0.4]),
        ("flat", [1.0, 1.0, 1.0]),
    ],
)
def test_the_trend_of_a_class(name, accuracies):
    assert trend(np.array(accuracies)) == name


def test_trends_count_every_class_once_and_gaps_are_percentiles():
    queries = embeddings()
    rows = list(trends(queries, None, [2, 3, 4, 8], quantiles=[0, 50]))
    counts = {str(row.setting): row.value for row in rows if row.metric == "classes"}
    assert sum(counts.values()) == CLASSES and set(counts) == {
        f"trend={name}" for name in ("up", "up_then_dip", "down_then_up", "none", "flat")
    }
    own = {}
    for dim in DIMS:
        right = queries.heads.logits(queries.features, dim).argmax(axis=1) == queries.labels
        own[dim] = np.array([right[queries.labels == c].mean() for c in range(CLASSES)])
    assert counts["trend=up"] == sum((own[2] <= own[4]) & (own[4] <= own[8]) & (own[2] < own[8]))
    gaps = {(row.dim, str(row.setting)): row.value for row in rows if row.metric == "class_gap"}
    assert gaps[2, "quantile=0%"] == pytest.approx((own[2] - own[8]).min())
    assert gaps[4, "quantile=50%"] == pytest.approx(np.median(own[4] - own[8]))
    assert {dim for dim, _ in gaps} == set(DIMS) and gaps[8, "quantile=50%"] == 0


def test_trends_need_three_sizes():
    with pytest.raises(UserError, match=r"2 dims \[4, 8\] show no trend(.|\n)*loss=mrl"):
        list(trends(embeddings(), None, [4, 8], quantiles=[50]))
