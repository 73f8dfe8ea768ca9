"""Vectors as a data set: their files, their split, and what is said of them."""

import numpy as np
import pytest
import torch
from composing import composed
from safetensors.torch import save_file

from mrl_experiments.construct import construct
from mrl_experiments.data.vectors.vector_data import VectorData
from mrl_experiments.errors import UserError
from mrl_experiments.external.vector_file import read_matrix

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((400, 12)).astype(np.float32)


def data_of(path, *options) -> VectorData:
    return construct(composed("train", "data=vectors", f"data.base={path}", *options).data)


def saved(path, vectors=VECTORS):
    np.save(path, vectors)
    return path


def table_of(vectors):
    import pyarrow

    flat = pyarrow.array(vectors.ravel())
    return pyarrow.table({"embedding": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})


def written(form, folder):
    path = folder / f"x{form}"
    if form == ".npy":
        np.save(path, VECTORS)
    elif form == ".npz":
        np.savez(path, embeddings=VECTORS)
    elif form == ".safetensors":
        save_file({"vectors": torch.from_numpy(VECTORS)}, path)
    elif form == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(table_of(VECTORS), path)
    else:
        feather = pytest.importorskip("pyarrow.feather")
        feather.write_feather(table_of(VECTORS), path, compression="uncompressed")
    return path


@pytest.mark.parametrize("form", [".npy", ".npz", ".safetensors", ".parquet", ".arrow"])
def test_every_form_holds_the_same_vectors(form, tmp_path):
    path = written(form, tmp_path)
    np.testing.assert_array_equal(read_matrix(path), VECTORS)
    data, other = data_of(path), data_of(saved(tmp_path / "same.npy"))
    assert data.files_identity() == other.files_identity()
    np.testing.assert_array_equal(data.rows["val"].numbers, other.rows["val"].numbers)


@pytest.mark.parametrize("form", [".npy", ".arrow"])
def test_files_are_memory_maps(form, tmp_path):
    if form == ".arrow":
        pytest.importorskip("pyarrow")
    array = read_matrix(written(form, tmp_path))
    assert not array.flags.owndata and not array.flags.writeable


def test_bfloat16(tmp_path):
    half = torch.from_numpy(VECTORS).bfloat16()
    save_file({"vectors": half}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read_matrix(tmp_path / "x.safetensors"), half.float().numpy())


def test_copies_stay_in_one_split_and_validation_is_a_share_that_follows_from_the_content(tmp_path):
    vectors = np.repeat(VECTORS, 3, axis=0)
    shuffled = np.random.default_rng(1).permutation(vectors)
    parts = [data_of(saved(tmp_path / "x.npy", each)).rows for each in (vectors, shuffled)]
    for rows in parts:
        assert not {*rows["train"].keys.tolist()} & {*rows["val"].keys.tolist()}
        assert len(rows["train"]) + len(rows["val"]) == 1200
        assert 60 < len(rows["val"]) < 180
    assert {*parts[0]["val"].keys.tolist()} == {*parts[1]["val"].keys.tolist()}


def test_what_was_found_is_one_line(tmp_path, capsys):
    vectors = np.concatenate([VECTORS, VECTORS[:2]])
    vectors[5], vectors[7, 3], vectors[8, 0] = 0, np.nan, np.inf
    data = data_of(saved(tmp_path / "found.npy", vectors))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    for part in ("402 vectors of 12 dims", "2 hold NaN or infinite values (7)", "1 hold zeros only (5)"):
        assert part in said
    assert "2 are exact copies" in said and "norms from" in said
    assert not {5, 7, 8} & {*data.rows["train"].numbers.tolist(), *data.rows["val"].numbers.tolist()}


def test_batches_have_rows_with_their_nearest_others(tmp_path):
    data = data_of(saved(tmp_path / "x.npy"), "data.batch_size=64", "data.neighbours=3")
    x, y, index = next(iter(data.train_dataloader()))
    rows = data.rows["train"]
    np.testing.assert_array_equal(x.numpy(), rows[index.numpy()])
    np.testing.assert_array_equal(y, rows.numbers[index.numpy()])  # without labels, a row's number
    unit = rows[:] / np.linalg.norm(rows[:], axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -1)
    for group in index.numpy().reshape(-1, 4):
        assert {*group[1:].tolist()} == {*np.argsort(-scores[group[0]])[:3].tolist()}


def test_labels_are_classes_by_name(tmp_path):
    names = np.array(["ant", "bee"])[np.arange(400) % 2]
    np.save(tmp_path / "y.npy", names)
    data = data_of(saved(tmp_path / "x.npy"), f"data.labels={tmp_path / 'y.npy'}")
    _, y, index = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(y, data.rows["val"].numbers[index.numpy()] % 2)
    assert data.num_classes == 2 and data.class_facts("val") == {"name": ["ant", "bee"]}


def test_a_file_to_validate_on_has_labels_of_its_own(tmp_path):
    base, val = saved(tmp_path / "x.npy", VECTORS[:300]), saved(tmp_path / "v.npy", VECTORS[300:])
    np.save(tmp_path / "y.npy", np.array(["ant", "bee", "cow"])[np.arange(300) % 3])
    np.save(tmp_path / "vy.npy", np.array(["bee", "cow"])[np.arange(100) % 2])
    given = [f"data.val={val}", f"data.labels={tmp_path / 'y.npy'}", f"data.val_labels={tmp_path / 'vy.npy'}"]
    data = data_of(base, *given)
    assert len(data.rows["train"]) == 300 and data.num_classes == 3
    _, y, index = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(y, 1 + index.numpy() % 2)
    with pytest.raises(UserError, match=r"labels of the base, and of data.val"):
        data_of(base, *given[:2])
    with pytest.raises(UserError, match=r"2 classes that .* lacks, such as bee"):
        np.save(tmp_path / "y.npy", np.array(["ant", "dog"])[np.arange(300) % 2])
        data_of(base, *given)


def test_pairs_are_split_by_their_documents_and_no_query_is_on_both_sides(tmp_path):
    documents = np.repeat(VECTORS[:200], 2, axis=0)
    queries = documents + RNG.standard_normal(documents.shape).astype(np.float32)
    queries[1::7] = queries[0]
    np.savez(tmp_path / "pairs.npz", queries=queries, positives=documents)
    base = saved(tmp_path / "x.npy")
    data = data_of(base, f"data.pairs={tmp_path / 'pairs.npz'}", "data.share=0.3")
    train, val = data.pairs["train"], data.pairs["val"]
    assert data.inputs["pairs"] == 1
    for ours, theirs in zip(train, val, strict=True):
        assert not {*ours.keys.tolist()} & {*theirs.keys.tolist()}
    (x, positives), y, index = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(x, queries[val.queries.numbers[index.numpy()]])
    for column, side in enumerate((x, positives)):
        same = y[:, None, column] == y[:, column]
        assert (same.numpy() == (side[:, None] == side).all(-1).numpy()).all()
    two = [saved(tmp_path / "q.npy", queries), saved(tmp_path / "d.npy", documents)]
    other = data_of(base, f"data.pairs=[{two[0]},{two[1]}]", "data.share=0.3")
    np.testing.assert_array_equal(other.pairs["val"].queries[:], val.queries[:])


def judged(folder, name="qrels/train.tsv"):
    """Write a folder in the form of BEIR: query q<n> has the documents d<2n> and d<2n + 1>, and no d0."""
    (folder / name).parent.mkdir(parents=True)
    np.savez(
        folder / "queries.npz", embeddings=VECTORS[:200] + 1, ids=np.array([f"q{n}" for n in range(200)])
    )
    np.savez(folder / "corpus.npz", embeddings=VECTORS, ids=np.array([f"d{n}" for n in range(400)])[::-1])
    lines = [f"q{n}\td{2 * n + more}\t{more + 1}" for n in range(1, 200) for more in (0, 1)]
    (folder / name).write_text("query-id\tcorpus-id\tscore\n" + "\n".join([*lines, "q5\td0\t0"]))
    return folder


def test_a_folder_of_beir_gives_a_pair_for_each_relevant_document(tmp_path):
    folder = judged(tmp_path / "beir")
    data = data_of(folder / "corpus.npz", f"data.pairs={folder}", "data.share=0.3")
    both = [data.pairs[split] for split in ("train", "val")]
    for pairs in both:
        queries, documents = pairs.queries.numbers, 399 - pairs.positives.numbers
        assert ((documents == 2 * queries) | (documents == 2 * queries + 1)).all() and 0 not in documents
    assert not {*both[0].queries.numbers.tolist()} & {*both[1].queries.numbers.tolist()}
    assert 300 < sum(len(pairs.queries) for pairs in both) <= 398


def test_judgments_of_a_test_are_never_trained_on(tmp_path):
    folder = judged(tmp_path / "beir", "qrels/test.tsv")
    with pytest.raises(UserError, match=r"qrels/test\.tsv"):
        data_of(folder / "corpus.npz", f"data.pairs={folder}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data.base=none.npy"], "none.npy does not exist"),
        (["data.base={folder}/flat.npy"], r"embeddings of shape \(12,\)"),
        (["data.base={folder}/tiny.npy"], "at least 8 of each"),
        (["data.labels={folder}/short.npy"], "3 labels, .* 400 vectors"),
        (["data.labels={folder}/one.npy"], "one class"),
        (["data.pairs={folder}/x.npy"], "pairs"),
        (["data.pairs=[{folder}/x.npy,{folder}/tiny.npy]"], "as many of each"),
        (["data.val={folder}/narrow.npy"], "has 4 dims"),
    ],
)
def test_what_does_not_fit_is_one_message(options, said, tmp_path):
    saved(tmp_path / "x.npy")
    saved(tmp_path / "flat.npy", VECTORS[0])
    saved(tmp_path / "tiny.npy", VECTORS[:9])
    saved(tmp_path / "narrow.npy", VECTORS[:, :4])
    saved(tmp_path / "short.npy", np.arange(3))
    saved(tmp_path / "one.npy", np.zeros(400, int))
    with pytest.raises(UserError, match=said):
        data_of(tmp_path / "x.npy", *(option.format(folder=tmp_path) for option in options))


def test_other_vectors_of_the_same_name_are_refused(tmp_path):
    first, second = data_of(saved(tmp_path / "x.npy")), data_of(saved(tmp_path / "y.npy", VECTORS[::-1] + 1))
    second.load_state_dict({**first.state_dict(), "name": "another"})
    with pytest.raises(UserError, match=r"data\.name="):
        second.load_state_dict(first.state_dict())
