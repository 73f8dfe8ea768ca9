"""Zero-shot classification, retrieval both ways and cosines of pairs, against loops over all pairs."""

import itertools

import numpy as np
import pytest
import torch
from composing import composed
from hydra.utils import instantiate

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError

DIMS = (3, 8, 16)


def evaluation(name, **options):
    return instantiate(composed("evaluate", f"evaluation={name}").evaluation, **options)


def embedded(features, labels):
    return Embeddings(
        np.asarray(features, np.float32), np.asarray(labels, np.int64), None, {"run": "made up"}
    )


@pytest.fixture(params=[0, 1])
def sides(request):
    """60 images and 25 texts of labels that start at 4 and have gaps, so that near is often right."""
    random = np.random.default_rng(request.param)
    centres = random.normal(size=(9, 16))
    names = np.array([4, 5, 7, 8, 11, 12, 13, 20, 21])
    of_images, of_texts = random.integers(0, 8, 60), np.r_[np.arange(9), random.integers(0, 9, 16)]
    images = centres[of_images] + random.normal(size=(60, 16)) * 3
    texts = centres[of_texts] * 3 + random.normal(size=(25, 16)) * 6
    return embedded(images, names[of_images]), embedded(texts, names[of_texts])  # 21 has no image


def unit(vector, dim):
    short = np.asarray(vector[:dim], np.float64)
    return short / np.linalg.norm(short)


def values(measurements):
    found = {(m.dim, m.metric, str(m.setting)): m.value for m in measurements}
    return found


def test_zero_shot_is_the_nearest_mean_of_unit_texts(sides):
    images, texts = sides
    found = values(evaluation("zero_shot")(images, texts, DIMS))
    classes = sorted(set(texts.labels.tolist()))
    for dim in DIMS:
        means = {}
        for label in classes:
            own = [unit(z, dim) for z, y in zip(texts.features, texts.labels, strict=True) if y == label]
            means[label] = unit(sum(own) / len(own), dim)
        hits = {1: 0, 5: 0}
        for z, y in zip(images.features, images.labels, strict=True):
            near = sorted(classes, key=lambda c, z=z: -float(unit(z, dim) @ means[c]))
            for k in hits:
                hits[k] += y in near[:k]
        assert 0 < hits[1] < hits[5] < len(images)
        assert found[dim, "top1", ""] == pytest.approx(hits[1] / len(images))
        assert found[dim, "top5", ""] == pytest.approx(hits[5] / len(images))
        assert found[dim, "classes", ""] == 9


def test_a_long_text_of_a_class_weighs_no_more_than_a_short_one():
    """Texts at 0 and 90 degrees, the first ten times as long: their class lies at 45 degrees."""
    texts = embedded([[10, 0, 0], [0, 1, 0], [1, 0.3, 0]], [0, 0, 1])
    images = embedded([[1, 0.9, 0], [1, 0.35, 0]], [0, 1])
    assert values(evaluation("zero_shot")(images, texts, [2]))[2, "top1", ""] == 1


def recall_by_hand(asked, searched, dim, k):
    hits = []
    for z, y in zip(asked.features, asked.labels, strict=True):
        if y in searched.labels:
            cosines = [float(unit(z, dim) @ unit(other, dim)) for other in searched.features]
            first = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
            hits.append(any(searched.labels[i] == y for i in first))
    return len(hits), sum(hits) / len(hits)


def test_recall_counts_queries_with_any_right_item(sides):
    images, texts = sides
    found = values(evaluation("cross_modal", k=[1, 3, 10])(images, texts, DIMS))
    for dim, k in itertools.product(DIMS, (1, 3, 10)):
        count, recall = recall_by_hand(images, texts, dim, k)
        assert count == 60
        assert found[dim, f"recall@{k}", "direction=image_to_text"] == pytest.approx(recall)
        count, recall = recall_by_hand(texts, images, dim, k)
        assert 16 <= count < 25  # texts without an image are no queries
        assert found[dim, f"recall@{k}", "direction=text_to_image"] == pytest.approx(recall)
    assert len(found) == 2 * 3 * 3


def test_pairs_are_one_to_one_where_every_label_is_new():
    """With a text an image, recall@1 is how often the diagonal is the largest of its row."""
    random = np.random.default_rng(0)
    z = random.normal(size=(30, 8))
    images, texts = embedded(z, range(30)), embedded(z + random.normal(size=z.shape), range(30))
    similarities = np.array([[unit(a, 8) @ unit(b, 8) for b in texts.features] for a in images.features])
    found = values(evaluation("cross_modal", k=[1])(images, texts, [8]))
    for direction, axis in (("image_to_text", 1), ("text_to_image", 0)):
        right = (similarities.argmax(axis=axis) == np.arange(30)).mean()
        assert found[8, "recall@1", f"direction={direction}"] == pytest.approx(right)


def test_cosine_span_is_the_mean_over_all_pairs(sides):
    images, texts = sides
    found = values(evaluation("cosine_span")(images, texts, DIMS))
    for dim in DIMS:
        both = {
            "positive_text_to_image": (texts, images, True),
            "random_text_to_image": (texts, images, False),
            "random_image_to_image": (images, images, False),
            "random_text_to_text": (texts, texts, False),
        }
        for pairs, (left, right, same) in both.items():
            cosines = [
                float(unit(a, dim) @ unit(b, dim))
                for a, y in zip(left.features, left.labels, strict=True)
                for b, other in zip(right.features, right.labels, strict=True)
                if (y == other) == same
            ]
            assert found[dim, "cosine", f"pairs={pairs}"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert len(found) == 4 * len(DIMS)


def cosines(images, texts, dim):
    from torchmetrics.functional import pairwise_cosine_similarity  # which is dear to every worker

    sides = [torch.from_numpy(side.features[:, :dim]).double() for side in (images, texts)]
    return pairwise_cosine_similarity(*sides)


def test_libraries_agree(sides):
    """torchmetrics: the hit rate of retrieval, cosines of all pairs, accuracy of the nearest class."""
    from torchmetrics.functional.classification import multiclass_accuracy
    from torchmetrics.retrieval import RetrievalHitRate

    images, texts = sides
    own = torch.from_numpy(images.labels[:, None] == texts.labels)
    recall = values(evaluation("cross_modal", k=[1, 4])(images, texts, DIMS))
    span = values(evaluation("cosine_span")(images, texts, DIMS))
    for dim, k in itertools.product(DIMS, (1, 4)):
        scores = cosines(images, texts, dim)
        for direction, flip in (("image_to_text", False), ("text_to_image", True)):
            score, right = (scores.T, own.T) if flip else (scores, own)
            index = torch.arange(len(score))[:, None].expand_as(score)
            rate = RetrievalHitRate(top_k=k, empty_target_action="skip")
            expected = rate(score.flatten(), right.flatten(), index.flatten()).item()
            assert recall[dim, f"recall@{k}", f"direction={direction}"] == pytest.approx(expected)
        positive, random = scores[own].mean().item(), scores[~own].mean().item()
        assert span[dim, "cosine", "pairs=positive_text_to_image"] == pytest.approx(positive, abs=1e-6)
        assert span[dim, "cosine", "pairs=random_text_to_image"] == pytest.approx(random, abs=1e-6)
    one_each = embedded(texts.features[:9], texts.labels[:9])  # a single text of each class
    classes = np.sort(one_each.labels)
    order = np.argsort(one_each.labels)
    found = values(evaluation("zero_shot")(images, one_each, DIMS))
    target = torch.from_numpy(np.searchsorted(classes, images.labels))
    for dim, k in itertools.product(DIMS, (1, 5)):
        scores = cosines(images, one_each, dim)[:, order]
        accuracy = multiclass_accuracy(scores, target, len(classes), top_k=k, average="micro").item()
        assert found[dim, f"top{k}", ""] == pytest.approx(accuracy)


def corners(random, count, labels):
    """Vectors of signs, of which many are equal: their cosines are exact, and tie."""
    return embedded(random.choice([-1.0, 1.0], (count, 4)), random.integers(0, labels, count))


@pytest.mark.parametrize("seed", range(5))
def test_of_equally_near_ones_those_that_belong_come_last(seed):
    random = np.random.default_rng(seed)
    images, texts = corners(random, 40, 6), corners(random, 30, 6)
    texts = embedded(texts.features, np.r_[np.arange(6), texts.labels[6:]])
    found = values(evaluation("cross_modal", k=[1, 3])(images, texts, [2, 4]))
    ties = 0
    for dim, k in itertools.product((2, 4), (1, 3)):
        for direction, asked, searched in (
            ("image_to_text", images, texts),
            ("text_to_image", texts, images),
        ):
            products = asked.features[:, :dim] @ searched.features[:, :dim].T
            own = searched.labels == asked.labels[:, None]
            first = np.lexsort((own, -products))
            ties += (np.diff(np.sort(products, axis=1)[:, -k - 1 :][:, :2]) == 0).sum()
            hits = np.take_along_axis(own, first, axis=1)[:, :k].any(axis=1)
            counted = np.isin(asked.labels, searched.labels)
            value = found[dim, f"recall@{k}", f"direction={direction}"]
            assert value == pytest.approx(hits[counted].mean())
    assert ties > 100  # the last that counts and the first that does not are often equally near


@pytest.mark.parametrize("name", ["zero_shot", "cross_modal", "cosine_span"])
def test_bad_input_is_refused(name, sides):
    images, texts = sides
    run = evaluation(name)
    with pytest.raises(UserError, match="no database for these queries"):
        list(run(images, None, DIMS))
    with pytest.raises(UserError, match="label that is missing from the database"):
        list(run(images, embedded(texts.features[1:2], [5]), DIMS))
    with pytest.raises(UserError, match=r"different widths \[8, 16\]"):
        list(run(images, embedded(texts.features[:, :8], texts.labels), [8]))


def test_one_label_has_no_random_pairs():
    with pytest.raises(UserError, match="one label"):
        list(evaluation("cosine_span")(embedded([[1.0, 2.0]], [3]), embedded([[2.0, 1.0]], [3]), [2]))


def test_more_than_there_are_cannot_be_recalled(sides):
    with pytest.raises(UserError, match="k=26 neighbours in a database of 25"):
        list(evaluation("cross_modal", k=[26])(*sides, [3]))
