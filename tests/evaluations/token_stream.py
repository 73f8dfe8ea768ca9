"""Random next-token features, whose larger sizes know more, with the heads of a vocabulary."""

import numpy as np

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.heads import Heads

DIMS, VOCABULARY, TEXT_BYTES = (4, 8, 16), 30, 2500


def token_stream(count=900, *, tied=False, heads=True, seed=0, **meta):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(VOCABULARY, DIMS[-1])).astype(np.float32)
    labels = rng.integers(VOCABULARY, size=count)
    features = (0.6 * weight[labels] + rng.normal(size=(count, DIMS[-1]))).astype(np.float32)
    own = DIMS[-1:] if tied else DIMS
    biases = {dim: rng.normal(size=VOCABULARY).astype(np.float32) for dim in own}
    classifiers = Heads({dim: weight[:, :dim].copy() for dim in own}, biases, tied) if heads else None
    known = {"dims": DIMS, "dataset": "stream", "bytes": TEXT_BYTES, "masked": None, **meta}
    return Embeddings(features, labels, classifiers, known)


def log_probabilities(queries, row, dim):
    """Return log p over the vocabulary after one token, in double precision."""
    weight, bias = queries.heads.at(dim)
    logits = weight.astype(np.float64) @ queries.features[row, :dim] + bias
    return logits - np.log(np.exp(logits).sum())
