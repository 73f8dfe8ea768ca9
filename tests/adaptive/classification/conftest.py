"""Nested classifiers on scikit-learn's digits, and synthetic ones of any size."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from mrl_experiments.adaptive.classification.exits import Exits, read_exits
from mrl_experiments.heads import Heads

DIGIT_DIMS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Sample:
    """Features (N, D) with their classifiers, labels (N,) and what the classifiers say."""

    features: np.ndarray
    labels: np.ndarray
    heads: Heads
    exits: Exits


@pytest.fixture(scope="session")
def digits():
    """Return the 1,197 digits on which neither the features nor the classifiers were fitted."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    train, rest = order[:600], order[600:]
    features = PCA(64).fit(images[train]).transform(images).astype(np.float32)
    weights, biases = {}, {}
    for dim in DIGIT_DIMS:
        model = LogisticRegression(max_iter=500, C=0.1).fit(features[train, :dim], labels[train])
        weights[dim] = model.coef_.astype(np.float32)
        biases[dim] = model.intercept_.astype(np.float32)
    heads = Heads(weights, biases, tied=False)
    features, labels = features[rest], labels[rest].astype(np.int64)
    return Sample(features, labels, heads, read_exits(features, heads))


@pytest.fixture
def synthetic():
    """Return a function that draws logits {dim: (N, C)} that sharpen with the size, and labels (N,)."""

    def draw(seed, count, dims, classes=10, skill=2.5):
        generator = np.random.default_rng(seed)
        labels = generator.integers(classes, size=count)
        shared = generator.normal(size=(count, classes))
        ease = generator.normal(1.3, 0.8, size=count)
        logits = {}
        for level, dim in enumerate(dims):
            noise = 1.5 * 2 ** (-level / 2) * generator.normal(size=(count, classes))
            scores = shared + noise
            scores[np.arange(count), labels] += (skill + 1.2 * (1 - 2.0**-level)) * ease
            logits[dim] = (1.5 * scores).astype(np.float32)
        return logits, labels

    return draw
