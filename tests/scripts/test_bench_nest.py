"""scripts/text_vectors.py and bench_nest.py: parts that share nothing, and figures by their definitions."""

import json
import sys

import numpy as np
import pytest
from commands import ROOT

from mrl_experiments.external.vector_file import read_vectors
from mrl_experiments.metrics.relevance import read_judgments

sys.path.insert(0, str(ROOT / "scripts"))
import bench_nest
import text_vectors
from text_vectors import Text

WORDS = np.array([f"word{number}" for number in range(500)])


def texts(sources=60, seed=0):
    """Sources of three documents each; a few queries and documents also stand in other sources."""
    draw = np.random.default_rng(seed)
    for source in range(sources):
        for _ in range(3):
            words = " ".join(draw.choice(WORDS, 9))
            yield Text(f"s{source}", f"about {words[:30]}", f"{words} at length \n .\n {words} of s{source}")
        yield Text(f"s{source}", "the same query", f"{words} in another document of source {source}")
        yield Text(f"s{source}", f"another of {source}", "a long document that every source has a copy of")


def sizes(documents):
    return {"fit": (documents, 8000), "test": (documents, 2000)}


@pytest.mark.parametrize("whole_of_source", [False, True])
def test_parts_share_no_text_and_each_query_has_its_documents(whole_of_source):
    parts = text_vectors.split(texts(), sizes(80), 0, whole_of_source=whole_of_source, most=20)
    fit, test = parts["fit"], parts["test"]
    for kind in ("documents", "queries"):
        ours, theirs = getattr(fit, kind), getattr(test, kind)
        assert not {*ours} & {*theirs} and len({*ours}) == len(ours) and len({*theirs}) == len(theirs)
    clean = {
        (" ".join(t.query.split()), " ".join(t.document.replace("\n .\n", "\n").split())) for t in texts()
    }
    for part in (fit, test):
        assert 70 <= len(part.documents) <= 90
        for query, rows in zip(part.queries, part.relevant, strict=True):
            own = {document for asked, document in clean if asked == query}
            assert own & {part.documents[row] for row in rows}
            if not whole_of_source:
                assert {part.documents[row] for row in rows} <= own
    again = text_vectors.split(reversed([*texts()]), sizes(80), 0, whole_of_source=whole_of_source, most=20)
    assert {*again["test"].queries} == {*test.queries}  # the order of the packages' files does not matter


class Letters:
    """Stand in for an encoder: counts of letters."""

    class Tokenizer:
        def no_padding(self): ...
        def enable_truncation(self, tokens): ...

    def __init__(self, packages):
        self.tokenizer, self.calls = self.Tokenizer(), []

    def __call__(self, texts):
        self.calls.append(len(texts))
        counts = np.array(
            [[text.count(letter) + 0.1 for letter in "abcdehlmnorstuw0123456789 ."[:16]] for text in texts]
        )
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    parts = text_vectors.split(texts(200), sizes(250), 0, whole_of_source=False, most=20)
    recipe = dict.fromkeys(text_vectors.RECIPE) | {"documents": 500, "tokens": 8}
    for name in ("wordnet/minilm", "wordnet/wordllama"):
        text_vectors.write(folder / name, parts, Letters, folder, recipe)
    encoder = Letters(folder)
    text_vectors.write(folder / "wordnet/minilm", parts, lambda _: encoder, folder, recipe)
    assert not encoder.calls  # what is there stays
    return folder, parts


def test_what_is_written_is_read_by_the_commands(vectors):
    folder, parts = vectors
    queries, documents = (
        read_vectors(folder / f"wordnet/minilm/{kind}.npy") for kind in ("queries", "documents")
    )
    assert queries.features.dtype == np.float16 and len(documents.features) == len(parts["test"].documents)
    judgments = read_judgments(folder / "wordnet/minilm/qrels.tsv")
    assert {*judgments} == {*queries.ids} and {d for one in judgments.values() for d in one} <= {
        *documents.ids
    }
    assert all(
        [*one] == [f"d{row}" for row in parts["test"].relevant[int(q[1:])]] for q, one in judgments.items()
    )


def test_the_last_line_has_the_figures(vectors, monkeypatch, capsys):
    folder, _ = vectors
    options = [
        "--vectors",
        str(folder),
        "--sets",
        "wordnet",
        "--maps",
        "prefix",
        "random",
        "svd",
        "covariance",
    ]
    monkeypatch.setattr(sys, "argv", ["bench_nest.py", *options])
    bench_nest.main()
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    task = bench_nest.Task.read(folder / "wordnet/minilm")
    full = task.measure(lambda x: x, [16])[16].mean()
    _, vectors = np.linalg.eigh(task.documents.T.astype(np.float64) @ task.documents)
    reduced = task.measure(lambda x: x @ vectors[:, ::-1].astype(np.float32), [2])[2].mean()
    assert found["svd_d8"] == pytest.approx(reduced / full, abs=2e-3)
    assert found["kept_d8"] is found["below_identity"] is found["apply_over_matmul"] is None
    assert "wordnet/minilm" in out and "wordnet/wordllama" in out


def test_only_dims_that_are_clearly_below_the_prefix_count():
    draw = np.random.default_rng(0)
    prefix = {dim: draw.random(400) for dim in (2, 4, 8, 16)}
    equal = {dim: values[draw.permutation(400)] for dim, values in prefix.items()}
    worse = {
        dim: values - 0.1 * (dim == 4) - 0.001 * draw.random(400) * (dim == 8)
        for dim, values in prefix.items()
    }
    assert (
        bench_nest.below_identity({"a": {"prefix": prefix, "adaptor": equal, "adaptor_pairs": prefix}}) == 0
    )
    assert bench_nest.below_identity({"a": {"prefix": prefix, "adaptor": worse}}) == 2
    assert bench_nest.below_identity({"a": {"prefix": prefix}}) is None


def test_figures_are_means_over_the_sets_without_controls():
    values = {16: np.full(9, 0.8), 2: np.full(9, 0.4), 1: np.full(9, 0.2)}
    half = {dim: values[dim] / (2 if dim < 16 else 1) for dim in values}
    results = {
        "x/minilm": {"prefix": values, "svd": values, "covariance": half},
        "y/minilm": {"prefix": values, "svd": half, "covariance": values},
        "y/wordllama": {"prefix": values, "svd": values, "covariance": values},
    }
    found = bench_nest.summary(results)
    assert found["svd_d8"] == pytest.approx(0.375) and found["svd_d16"] == pytest.approx(0.1875)
    assert found["svd_d8_pairs"] == pytest.approx(0.375) and found["kept_d8"] is None
