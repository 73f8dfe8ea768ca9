import json

import numpy as np
import pytest

from mrl_experiments.embeddings import (
    FEATURES,
    LABELS,
    META,
    create,
    is_complete,
    load,
    open_arrays,
    seal,
)
from mrl_experiments.errors import UserError
from mrl_experiments.heads import Heads

EXPECTED = {"run": "a", "split": "val"}
HEADS = Heads({4: np.ones((3, 4), np.float32)}, {4: np.arange(3, dtype=np.float32)}, tied=False)


def write(folder, count=50, heads=None):
    create(folder, count, 6)
    features, labels = open_arrays(folder)
    features[:] = np.random.default_rng(0).standard_normal((count, 6))
    labels[:] = np.arange(count) + 2**33
    seal(folder, heads, {**EXPECTED, "dims": [2, 4, 6]})
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


def test_half_written_is_not_complete(tmp_path):
    folder = tmp_path / "val"
    write(folder, heads=HEADS)
    (folder / "neighbours").mkdir()
    create(folder, 50, 6)  # a second writer begins, and dies
    assert not is_complete(folder, EXPECTED)
    assert not (folder / "neighbours").exists()
    with pytest.raises(UserError, match="no complete embeddings"):
        load(folder)


def test_samples_never_written_are_noticed_before_the_seal(tmp_path):
    create(tmp_path / "val", 50, 6)
    open_arrays(tmp_path / "val")[0][:48] = 1
    with pytest.raises(UserError, match="2 of 50 embeddings hold zeros only, first sample 48"):
        seal(tmp_path / "val", None, EXPECTED)
    assert not is_complete(tmp_path / "val", EXPECTED)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, value):
    create(tmp_path / "val", 50, 6)
    features, _ = open_arrays(tmp_path / "val")
    features[:] = 1
    features[[7, 9], 3] = value
    with pytest.raises(UserError, match="2 of 50 embeddings hold NaN or infinite values, first sample 7"):
        seal(tmp_path / "val", None, EXPECTED)


@pytest.mark.parametrize("name", [FEATURES, LABELS])
def test_a_changed_file_is_refused(tmp_path, name):
    folder = tmp_path / "val"
    write(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} has changed since it was written"):
        load(folder)


def test_a_wrong_shape_or_a_missing_file_is_refused(tmp_path):
    folder = tmp_path / "val"
    write(folder)
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({**meta, "shape": [51, 6]}))
    with pytest.raises(UserError, match=r"the shape \(51, 6\)"):
        load(folder)
    (folder / META).write_text(json.dumps(meta))
    (folder / LABELS).unlink()
    with pytest.raises(UserError, match=LABELS):
        load(folder)


def test_identity_follows_content(tmp_path):
    first, same = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", count=49)
    assert first.identity == same.identity != other.identity
    assert first.with_features(first.features, None, reduction="svd").identity != first.identity
