import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits by principal component: real vectors whose prefixes carry most of them."""
    features = PCA(32, random_state=0).fit_transform(load_digits().data).astype(np.float32)
    return features[300:], features[:300]


def agreement(spec, digits):
    database, queries = digits
    exact = AdaptiveIndex.build(database, None, IndexSpec((32,), "Flat", ((32, 10),))).search(queries, 10)
    found = AdaptiveIndex.build(database, None, spec).search(queries, 10)
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.ids, exact.ids, strict=True)])


@pytest.mark.parametrize(
    "codes, effort", [("Flat", ""), ("IVF16,SQ8", "nprobe=8"), ("HNSW16", "efSearch=64")]
)
def test_a_rerank_recovers_what_a_short_prefix_misses(codes, effort, digits):
    alone = agreement(IndexSpec((8,), codes, ((8, 10),), effort=effort), digits)
    reranked = agreement(IndexSpec((8,), codes, ((8, 100), (32, 10)), effort=effort), digits)
    funnel = agreement(IndexSpec((8,), codes, ((8, 100), (16, 30), (32, 10)), effort=effort), digits)
    assert alone < 0.7
    assert reranked > 0.97
    assert reranked - 0.02 < funnel <= reranked
