import json
import os
import shutil

import numpy as np
import pytest

from mrl_experiments.embeddings import (
    CLASSES,
    FEATURES,
    LABELS,
    META,
    create,
    finalize,
    is_complete,
    load,
    open_arrays,
    write_classes,
    writing,
)
from mrl_experiments.embeddings import HEADS as HEADS_FILE
from mrl_experiments.errors import UserError
from mrl_experiments.files import write_json
from mrl_experiments.heads import Heads

EXPECTED = {"run": "a", "split": "val"}
HEADS = Heads({4: np.ones((3, 4), np.float32)}, {4: np.arange(3, dtype=np.float32)}, tied=False)


def write(folder, count=50, heads=None):
    create(folder, count, 6)
    features, labels = open_arrays(folder)
    features[:] = np.random.default_rng(0).standard_normal((count, 6))
    labels[:] = np.arange(count) + 2**33
    finalize(folder, heads, {**EXPECTED, "dims": [2, 4, 6]})
    return load(folder)


def test_round_trip(tmp_path):
    stored = write(tmp_path / "val", heads=HEADS)
    assert stored.features.dtype == np.float32 and stored.labels.dtype == np.int64
    assert stored.labels[-1] == 49 + 2**33  # not a float's rounding
    assert isinstance(stored.features, np.memmap) and not stored.features.flags.writeable
    assert stored.trained_dims == (2, 4, 6) and stored.width == 6 and len(stored) == 50
    np.testing.assert_allclose(
        stored.heads.logits(stored.features, 4), stored.at(4).sum(1)[:, None] + [0, 1, 2], rtol=1e-4
    )
    assert is_complete(tmp_path / "val", EXPECTED)
    assert not is_complete(tmp_path / "val", {**EXPECTED, "run": "b"})
    with pytest.raises(UserError, match="dim 7 is not stored"):
        stored.at(7)


def test_new_embeddings_replace_old_ones_only_when_they_are_whole(tmp_path):
    folder = tmp_path / "val"
    before = write(folder, heads=HEADS)
    (folder / "neighbours").mkdir()
    create(folder, 40, 6)  # a second writer begins, and dies
    assert is_complete(folder, EXPECTED) and load(folder).identity == before.identity
    with writing(folder):
        pass
    assert sorted(os.listdir(tmp_path)) == [".val.lock", "val"]
    assert len(write(folder, count=40)) == 40
    assert not (folder / "neighbours").exists() and not (folder / HEADS_FILE).exists()
    assert sorted(os.listdir(tmp_path)) == [".val.lock", "val"]


@pytest.mark.parametrize("state", ["before", "between", "after"])
def test_a_kill_while_folders_are_exchanged_loses_nothing(tmp_path, state):
    folder, new, old = (tmp_path / name for name in ("val", ".val.part", ".val.old"))
    write(tmp_path / "new", count=40)
    (tmp_path / "new").rename(new)
    write(tmp_path / "other" / "val", count=50)
    (tmp_path / "other" / "val").rename(folder if state == "before" else old)
    if state == "after":
        new.rename(folder)
    with writing(folder):
        assert len(load(folder)) == (50 if state == "before" else 40)
        assert not new.exists() and not old.exists()


def test_a_file_in_place_of_the_folder_stays(tmp_path):
    (tmp_path / "val").write_text("mine")
    with pytest.raises(UserError, match="a file stands where a folder should be"), writing(tmp_path / "val"):
        pass
    assert (tmp_path / "val").read_text() == "mine"


def test_embeddings_behind_a_link_are_replaced_where_they_are(tmp_path):
    write(tmp_path / "disk" / "val")
    (tmp_path / "val").symlink_to("disk/val")
    write(tmp_path / "val", count=30)
    assert (tmp_path / "val").is_symlink() and len(load(tmp_path / "disk" / "val")) == 30


def test_samples_never_written_are_noticed_before_they_are_finalized(tmp_path):
    create(tmp_path / "val", 50, 6)
    open_arrays(tmp_path / "val")[0][:48] = 1
    with pytest.raises(UserError, match="2 of 50 embeddings hold zeros only, first sample 48"):
        finalize(tmp_path / "val", None, EXPECTED)
    assert not is_complete(tmp_path / "val", EXPECTED)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, value):
    create(tmp_path / "val", 50, 6)
    features, _ = open_arrays(tmp_path / "val")
    features[:] = 1
    features[[7, 9], 3] = value
    with pytest.raises(UserError, match="2 of 50 embeddings hold NaN or infinite values, first sample 7"):
        finalize(tmp_path / "val", None, EXPECTED)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def into_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deleted": lambda path: path.unlink(),
    "a folder": into_a_folder,
}


@pytest.mark.parametrize("name", [FEATURES, LABELS, HEADS_FILE, META, CLASSES])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_and_the_embeddings_are_not_complete(tmp_path, name, kind, capsys):
    folder = tmp_path / "val"
    write(folder, heads=HEADS)
    write_classes(folder, {"name": ["a", "b"]})
    DAMAGE[kind](folder / name)
    if (name, kind) == (CLASSES, "deleted"):  # what is known of the classes may be missing
        assert load(folder).classes == {}
        return
    with pytest.raises(UserError, match=name if kind != "deleted" else "val") as caught:
        load(folder)
    assert caught.value.remedy
    if name == CLASSES and kind != "a folder":
        write_classes(folder, {"name": ["a", "b"]})
        assert load(folder).classes == {"name": ["a", "b"]}
    elif name != CLASSES:
        assert not is_complete(folder, EXPECTED, with_heads=True)


@pytest.mark.parametrize("name", [FEATURES, LABELS, HEADS_FILE, META, CLASSES])
def test_a_file_of_other_embeddings_is_noticed(tmp_path, name):
    other_heads = Heads({4: np.zeros((3, 4), np.float32)}, {4: np.zeros(3, np.float32)}, tied=False)
    folders = tmp_path / "val", tmp_path / "other"
    for folder, heads in zip(folders, (HEADS, other_heads), strict=True):
        create(folder, 50, 6)
        features, labels = open_arrays(folder)
        features[:] = np.random.default_rng(len(folder.name)).standard_normal((50, 6))
        labels[:] = np.arange(50) + len(folder.name)
        finalize(folder, heads, {**EXPECTED, "dataset": "one"})
        write_classes(folder, {"name": [folder.name]})
    shutil.copy(folders[1] / name, folders[0] / name)
    with pytest.raises(UserError, match=r"has changed since it was written|belongs to other embeddings"):
        load(folders[0])


def test_classifiers_put_beside_embeddings_that_had_none_are_refused(tmp_path):
    folder = tmp_path / "val"
    write(folder)
    HEADS.save(folder / HEADS_FILE)
    with pytest.raises(UserError, match="does not belong to"):
        load(folder)


@pytest.mark.parametrize("stored", [3, [], {FEATURES: "x"}])
def test_a_meta_file_that_notes_no_files_is_refused(tmp_path, stored):
    folder = tmp_path / "val"
    write(folder)
    meta = json.loads((folder / META).read_text())
    del meta["digest"]
    write_json(folder / META, {**meta, "stored": stored})
    with pytest.raises(UserError, match="lacks the shape or the checksums"):
        load(folder)


def test_meta_of_before_is_read(tmp_path):
    folder = tmp_path / "val"
    write(folder, heads=HEADS)
    meta = json.loads((folder / META).read_text())
    del meta["stored"], meta["digest"], meta["checksum"][HEADS_FILE]
    (folder / META).write_text(json.dumps(meta))
    assert len(load(folder)) == 50 and load(folder).heads is not None and is_complete(folder, EXPECTED)
    (folder / HEADS_FILE).unlink()
    assert load(folder).heads is None and not is_complete(folder, EXPECTED, with_heads=True)
    flipped(folder / LABELS)
    with pytest.raises(UserError, match=LABELS):
        load(folder)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"shape": [51, 6]}, r"the shape \(51, 6\)"),
        ({"shape": None}, "lacks the shape"),
        ({"version": 2}, "of version 2"),
        ({"version": None}, "of version None"),
        ({"dims": [2, 7]}, "trained dims"),
        ({"dims": 6}, "trained dims"),
        ({"dims": []}, "trained dims"),
        ({"dims": ["2"]}, "trained dims"),
        ({"checksum": {}}, "does not belong"),
        ({"checksum": 3}, "checksums"),
    ],
)
def test_what_a_meta_file_cannot_state_is_refused(tmp_path, changed, said):
    folder = tmp_path / "val"
    write(folder)
    meta = json.loads((folder / META).read_text())
    del meta["digest"]
    (folder / META).write_text(json.dumps({**meta, **changed}))
    with pytest.raises(UserError, match=said):
        load(folder)


@pytest.mark.parametrize("name, kind", [(FEATURES, np.float64), (LABELS, np.float32), (LABELS, np.int32)])
def test_arrays_of_another_type_are_refused(tmp_path, name, kind, monkeypatch):
    folder = tmp_path / "val"
    write(folder)
    np.save(folder / name, np.load(folder / name).astype(kind))
    with pytest.raises(UserError, match="has changed since"):
        load(folder)
    monkeypatch.setattr("mrl_experiments.embeddings._check_parts", lambda *_: None)  # forged checksums
    with pytest.raises(UserError, match=f"holds {np.dtype(kind)}"):
        load(folder)


def test_identity_follows_content(tmp_path):
    first, same = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", count=49)
    assert first.identity == same.identity != other.identity
    assert first.with_features(first.features, None, reduction="svd").identity != first.identity
