"""Evaluations of more vectors than memory should hold: read by blocks, queries too."""

import subprocess
import sys
from itertools import chain

import numpy as np
import pytest

from mrl_experiments.adaptive.retrieval import shortlist
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.search import neighbours, shards

RNG = np.random.default_rng(0)
VECTORS, QUERIES = (RNG.normal(size=(count, 16)).astype("f4") for count in (2000, 700))


@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "l2"])
def test_queries_in_several_runs_find_what_they_find_at_once(monkeypatch, similarity):
    labels = RNG.integers(5, size=700), RNG.integers(5, size=2000)
    expected = neighbours.nearest(QUERIES, VECTORS, [4, 16], 6, labels, similarity)
    monkeypatch.setattr(neighbours, "QUERIES", neighbours.QUERY_BLOCK)
    found = neighbours.nearest(QUERIES, VECTORS, [4, 16], 6, labels, similarity)
    for dim in (4, 16):
        np.testing.assert_array_equal(found[dim].positions, expected[dim].positions)
        np.testing.assert_array_equal(found[dim].similarities, expected[dim].similarities)


@pytest.mark.parametrize("count, block, several", [(1000, 256, 3), (5, 256, 2), (512, 256, 2), (7, 1, 4)])
def test_processes_share_queries_in_whole_blocks(monkeypatch, count, block, several):
    taken = []
    for number in range(several):
        monkeypatch.setattr(shards, "processes", lambda number=number: (number, several))
        gathered = []

        def gather(found, own, gathered=gathered):
            gathered.append(own)
            found[0] = own

        monkeypatch.setattr("torch.distributed.all_gather_object", gather)
        shards.shared(count, block, lambda rows: [*range(count)[rows]], lambda parts: [*chain(*parts)])
        taken.append(gathered[0])
    assert [*chain(*filter(None, taken))] == [*range(count)]
    assert all(len(part) % block == 0 for part in taken[:-1] if part and part[-1] < count - 1)


@pytest.mark.parametrize("codes", ["IVF16,SQ8", "SQ8", "HNSW16"])
def test_an_index_built_in_blocks_finds_as_much(monkeypatch, codes):
    spec = IndexSpec((16,), codes, ((16, 10),), effort="nprobe=8" if "IVF" in codes else "")
    whole = AdaptiveIndex.build(VECTORS, None, spec).search_stages(QUERIES).ids
    monkeypatch.setattr(shortlist, "LARGE", 0)
    monkeypatch.setattr(shortlist, "BLOCK", 700)
    found = AdaptiveIndex.build(VECTORS, None, spec).search_stages(QUERIES).ids
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found, whole, strict=True)]) > 0.85
    rows = np.arange(0, 2000, 2)
    assert np.isin(AdaptiveIndex.holding(VECTORS, None, spec, rows).search_stages(QUERIES).ids, rows).all()


MEMORY = """
import sys
from functools import partial
from pathlib import Path
from threading import Event, Thread
import numpy as np
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.evaluations.adaptive_retrieval import adaptive_retrieval
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.evaluations.retrieval import retrieval

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def measure(database, queries):
    yield from knn(queries, database, dims, k=[1, 10])
    yield from retrieval(queries, database, dims, k=[10])
    lists = {"codes": partial(IndexSpec, codes="IVF64,PQ16x4fsr", effort="nprobe=8")}
    options = {"k": 10, "shortlist": 50, "lengths": (), "lengths_dim": 32, "max_queries": 100, "timed": 20}
    yield from adaptive_retrieval(queries, database, dims, indexes=lists, **options)

dims, done, most = [32, 256], Event(), []
features = np.load(sys.argv[1], mmap_mode="r")
labels, meta = np.arange(len(features)) % 50, {"dims": dims, "run": "x"}
queries = Embeddings(np.array(features[:200]) + np.float32(0.1), labels[:200], None, meta)
list(measure(Embeddings(features[:5000], labels[:5000], None, meta), queries))  # what libraries take once
start = anonymous()

def watch():
    while not done.wait(0.01):
        most.append(anonymous())

thread = Thread(target=watch)
thread.start()
rows = list(measure(Embeddings(features, labels, None, meta), queries))
done.set()
thread.join()
assert len(rows) > 30
print(max(most) - start)
"""


@pytest.mark.slow
def test_anonymous_memory_stays_far_below_the_vectors(tmp_path):
    path = tmp_path / "features.npy"
    features = np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(600_000, 256))
    for start in range(0, len(features), 50_000):
        features[start : start + 50_000] = RNG.standard_normal((50_000, 256), np.float32)
    features.flush()
    size = path.stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert size > 580 and float(done.stdout.split()[-1]) < 300  # MiB
