import os
import resource

import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.files import (
    atomic_path,
    fingerprint,
    is_unchanged,
    os_error,
    read_object,
    sha256,
    write_json,
)


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
    assert read_object(tmp_path / "new" / "meta.json") == {"läuft": [1, 2.5, None]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_user_error(tmp_path):
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as full:
        full.write("x")
    assert "no space left" in str(os_error(caught.value, tmp_path / "weights"))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda folder: folder.joinpath("in").touch() or folder / "in" / "x.json", "a file stands where"),
        (lambda folder: folder / ("x" * 300), "name is too long"),
        (
            lambda folder: folder.joinpath("in").symlink_to("in") or folder / "in" / "x",
            "stands where a folder|in a circle",
        ),
        (lambda folder: folder.joinpath("d", "e").mkdir(parents=True) or folder / "d", "a folder stands"),
    ],
)
def test_what_the_system_refuses_is_one_message_with_the_path(tmp_path, make, said):
    target = make(tmp_path)
    with pytest.raises(UserError, match=said):
        write_json(target, {})


def test_a_link_to_nothing_is_named_with_what_it_leads_to(tmp_path):
    (tmp_path / "weights").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UserError, match=r"weights is a link to .*unmounted, which is not there"):
        sha256(tmp_path / "weights")


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_rights_that_the_umask_gives(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_a_changed_json_file_is_noticed_and_an_old_one_is_read(tmp_path):
    path = tmp_path / "meta.json"
    write_json(path, {"seed": 3, "value": 0.1, "none": float("nan"), 7: [1]})
    assert read_object(path)["seed"] == 3
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 8'))
    with pytest.raises(UserError, match="has changed since it was written"):
        read_object(path)
    path.write_text('{"seed": 3}')
    assert read_object(path) == {"seed": 3}
    for damaged in ("", '{"seed": 3', "[" * 100_000, "\x00"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"meta\.json is damaged"):
            read_object(path)


def test_a_file_is_known_by_its_fingerprint(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    path.write_bytes(b"content")
    noted = fingerprint(path)
    assert is_unchanged(path, noted)
    status = path.stat()
    path.write_bytes(b"cOntent")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_unchanged(path, noted)
    monkeypatch.setattr("mrl_experiments.files.LARGE", 3)  # a large file whose times are others is hashed
    assert not is_unchanged(path, noted)
    path.write_bytes(b"content")
    assert is_unchanged(path, noted)
    path.unlink()
    assert not is_unchanged(path, noted)


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("read", [read_object, sha256])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_never_read(tmp_path, read, kind):
    path = tmp_path / "meta.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"meta\.json(:)? (is )?a"):
        read(path)
    assert not is_unchanged(path, {})


def _too_large(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    return folder / "file"


def _beside_a_file(folder):
    (folder / "file").touch()
    return folder / "file" / "inside"


def _a_folder(folder):
    (folder / "folder").mkdir()
    return folder / "folder"


REFUSED = {
    "larger than this system lets a file be": _too_large,
    "a file stands where a folder should be": _beside_a_file,
    "a folder stands where a file should be": _a_folder,
    "the name is too long": lambda folder: folder / ("x" * 300),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_the_system_refuses_to_write_is_named_with_a_remedy(problem, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        path = REFUSED[problem](tmp_path)
        with pytest.raises(UserError, match=problem) as refused, atomic_path(path) as temporary:
            temporary.write_text("more than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in refused.value.problem and refused.value.expected and refused.value.remedy
    assert not list(tmp_path.rglob("*.part"))


def test_an_error_without_a_path_is_perhaps_of_what_is_printed():
    with pytest.raises(OSError) as caught, open("/dev/full", "w", buffering=1) as full:
        print("x", file=full)
    assert "standard output" in str(os_error(caught.value))
