import errno
import os

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, raise_if_disk_full, read_json, sha256, write_json


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "rows.csv"
    target.write_text("old")
    with pytest.raises(ValueError), atomic_path(target) as path:
        path.write_text("half")
        raise ValueError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_a_good_writer_replaces_the_file(tmp_path):
    write_json(tmp_path / "new" / "meta.json", {"läuft": [1, 2.5, None]})
    assert read_json(tmp_path / "new" / "meta.json") == {"läuft": [1, 2.5, None]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_user_error(tmp_path):
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as full:
        full.write("x")
    with pytest.raises(UserError, match="no space left"):
        raise_if_disk_full(caught.value, tmp_path / "weights")
    raise_if_disk_full(OSError(errno.EACCES, "denied"), tmp_path)  # another error is not its business


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
