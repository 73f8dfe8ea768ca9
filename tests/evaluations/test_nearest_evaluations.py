import numpy as np
import pytest

from mrl_experiments.directions import SAME_SCORE
from mrl_experiments.embeddings import Embeddings, create, finalize, load, open_arrays
from mrl_experiments.errors import UserError
from mrl_experiments.evaluations.knn import knn
from mrl_experiments.evaluations.retrieval import retrieval
from mrl_experiments.search import neighbour_cache
from mrl_experiments.search.neighbour_cache import _name
from mrl_experiments.search.staged_search import StagedSearch

DIMS = (4, 8, 16)


def stored(folder, features, labels):
    create(folder, *features.shape)
    arrays = open_arrays(folder)
    arrays[0][:], arrays[1][:] = features, labels
    finalize(folder, None, {"dims": list(DIMS)})
    return load(folder)


@pytest.fixture
def pair(tmp_path):
    """Queries and a database of 12 classes around random centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, 16))

    def draw(count, folder):
        labels = np.concatenate([np.arange(12), rng.integers(0, 12, count - 12)])
        return stored(folder, centres[labels] + rng.standard_normal((count, 16)) * 1.5, labels)

    return draw(60, tmp_path / "queries"), draw(400, tmp_path / "database")


@pytest.fixture
def all_kept(monkeypatch):
    """Keep also what takes no time to find again."""
    monkeypatch.setattr(neighbour_cache, "WORTH", 0)


def table(measurements):
    return {(m.dim, str(m.setting), m.metric): m.value for m in measurements}


def sorted_labels(queries, database, dim):
    def unit(embeddings):
        short = embeddings.features[:, :dim].astype(np.float64)
        return short / np.linalg.norm(short, axis=1, keepdims=True)

    squared = ((unit(queries)[:, None] - unit(database)[None]) ** 2).sum(axis=2)
    squared += 2 * SAME_SCORE * (queries.labels[:, None] == database.labels)  # as near is after the others
    return database.labels[np.argsort(squared, axis=1)]


def test_knn_against_sorting_and_counting(pair):
    queries, database = pair
    found = table(knn(queries, database, DIMS, k=[1, 3, 5]))
    for dim in DIMS:
        ranked = sorted_labels(queries, database, dim)
        assert found[dim, "k=1", "top1"] == np.mean(ranked[:, 0] == queries.labels)
        for k in (3, 5):
            wins = []
            for row, label in zip(ranked[:, :k].tolist(), queries.labels.tolist(), strict=True):
                wins.append(max(dict.fromkeys(row), key=row.count) == label)  # first of equals: the nearest
            assert found[dim, f"k={k}", "top1"] == pytest.approx(np.mean(wins))
        assert found[dim, "k=5", "top5"] == np.mean((ranked[:, :5] == queries.labels[:, None]).any(axis=1))
    assert (4, "k=3", "top5") not in found


def test_retrieval_against_loops(pair):
    queries, database = pair
    found = table(retrieval(queries, database, DIMS, k=[3, 20]))
    for dim in DIMS:
        right = sorted_labels(queries, database, dim) == queries.labels[:, None]
        assert found[dim, "", "top5"] == np.mean(right[:, :5].any(axis=1))
        for k in (3, 20):
            ap = [sum(row[:i].mean() for i in range(1, k + 1) if row[i - 1]) / k for row in right]
            assert found[dim, "", f"mAP@{k}"] == pytest.approx(np.mean(ap))
            assert found[dim, "", f"P@{k}"] == pytest.approx(right[:, :k].mean())
            share = right[:, :k].sum(axis=1) / right.sum(axis=1)
            assert found[dim, "", f"R@{k}"] == pytest.approx(share.mean())
        assert found[dim, "", "macs"] == 400 * dim
        assert found[dim, "", "index_bytes"] == 400 * dim * 4


def test_what_takes_no_time_is_not_kept(pair):
    queries, database = pair
    table(knn(queries, database, DIMS, k=[3]))
    assert not (queries.folder / "neighbours").exists()


def test_kept_neighbours_stay_within_their_budget(pair, all_kept, monkeypatch):
    queries, database = pair
    table(knn(queries, database, DIMS, k=[3]))
    sizes = [file.stat().st_size for file in (queries.folder / "neighbours").iterdir()]
    assert max(sizes) < 60 * 4 * (4 + 2) + 1000  # of float32 and uint16, and headers
    monkeypatch.setattr(neighbour_cache, "LEAST", 2 * max(sizes))
    monkeypatch.setattr(neighbour_cache, "SHARE", 0)
    before = table(knn(queries, database, DIMS, k=[5]))
    assert len([*(queries.folder / "neighbours").iterdir()]) == 1
    assert table(knn(queries, database, DIMS, k=[5])) == before


def test_kept_neighbours_serve_later_metrics(pair, all_kept):
    queries, database = pair
    first = table(knn(queries, database, DIMS, k=[1, 20]))
    files = sorted((queries.folder / "neighbours").iterdir())
    assert len(files) == len(DIMS)
    assert table(knn(queries, database, DIMS, k=[1])).items() <= first.items()
    # What is read is what was kept: swap the two nearest and the metric follows.
    for file in files:
        content = dict(np.load(file))
        content["positions"][:, [0, 1]] = content["positions"][:, [1, 0]]
        np.savez(file, **content)
    swapped = table(knn(queries, database, DIMS, k=[1]))
    assert swapped[16, "k=1", "top1"] == np.mean(sorted_labels(queries, database, 16)[:, 1] == queries.labels)
    # More neighbours than were kept are searched for anew, and so are those of other vectors.
    assert table(knn(queries, database, DIMS, k=[1, 21]))[16, "k=1", "top1"] == first[16, "k=1", "top1"]
    other = stored(database.folder, database.features[::-1].copy(), database.labels[::-1].copy())
    assert table(knn(queries, other, DIMS, k=[1, 20])) == first


@pytest.mark.parametrize("kind", ["exchanged", "flipped", "cut", "empty", "unnamed", "a folder"])
def test_kept_neighbours_that_are_damaged_or_of_something_else_are_searched_again(
    pair, kind, all_kept, capsys
):
    queries, database = pair
    expected = table(knn(queries, database, DIMS, k=[1, 5]))
    files = {dim: queries.folder / "neighbours" / _name(queries, database, dim) for dim in DIMS}
    one, other, _ = (path.with_name(path.name + ".npz") for path in files.values())
    content = bytearray(one.read_bytes())
    if kind == "exchanged":
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "flipped":
        content[-900] ^= 1
        one.write_bytes(content)
    elif kind == "unnamed":  # as before they said whose they are
        arrays = dict(np.load(one))
        del arrays["name"]
        np.savez(one, **arrays)
    elif kind == "a folder":
        one.unlink()
        one.mkdir()
    else:
        one.write_bytes(content[:900] if kind == "cut" else b"")
    assert table(knn(queries, database, DIMS, k=[1, 5])) == expected
    assert "neighbours are searched again" in capsys.readouterr().out
    table(knn(queries, database, DIMS, k=[1, 5]))
    assert ("neighbours" in capsys.readouterr().out) == (kind == "a folder")


def test_embeddings_in_memory_keep_nothing(pair, tmp_path):
    queries, database = (Embeddings(np.array(e.features), e.labels, None, e.meta) for e in pair)
    assert table(knn(queries, database, DIMS, k=[5])) == table(knn(*pair, DIMS, k=[5]))


@pytest.mark.parametrize("evaluation", [knn, retrieval])
def test_bad_input(pair, evaluation):
    queries, database = pair
    with pytest.raises(UserError, match="no database"):
        list(evaluation(queries, None, DIMS, k=[1]))
    with pytest.raises(UserError, match="k=500 neighbours in a database of 400"):
        list(evaluation(queries, database, DIMS, k=[500]))
    strangers = Embeddings(queries.features, np.full(60, 99), None, queries.meta)
    with pytest.raises(UserError, match="60 of 60 queries have a label that is missing from the database"):
        list(evaluation(strangers, database, DIMS, k=[1]))


def test_more_queries_than_there_are_take_no_memory(pair):
    queries, database = pair
    search = StagedSearch.of(queries, database, 5, 2**62, 1)
    np.testing.assert_array_equal(search.queries, queries.features)
