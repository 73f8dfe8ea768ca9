"""Prepared splits are whole or absent, whatever happens while they are written."""

import json
import multiprocessing as mp
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import need_ffcv
from disks import read_only, tiny_disk

from mrl_experiments.data.artifact_cache import cache_folder, manifest_path
from mrl_experiments.data.loaders.beton import Storage
from mrl_experiments.data.loaders.cache import Cache
from mrl_experiments.errors import UserError

RAW = {"train": Storage(), "val": Storage()}
KINDS = ["beton", "array"]


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "beton":
        need_ffcv()
    return request.param


def prepare(kind, cache, split="train"):
    return getattr(cache, kind)(split, 2)


def files(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_split_is_written_once_with_its_manifest(kind, pictures, tmp_path):
    source = pictures(opened=tmp_path / "opened")
    path = prepare(kind, Cache(tmp_path, source, RAW))
    opened = source.opened.read_text()
    assert prepare(kind, Cache(tmp_path, source, RAW)) == path
    assert source.opened.read_text() == opened
    manifest = json.loads(path.with_name(path.name + ".json").read_text())
    assert manifest["samples"] == 150 and manifest["bytes"] == path.stat().st_size
    assert manifest["classes"] == list("abcde") and len(manifest["sha256"]) == 64
    assert manifest["identity"]["source"] == source.identity()


def test_an_array_holds_all_images_and_labels(pictures, tmp_path):
    source = pictures()
    cache = Cache(tmp_path, source, RAW)
    records = np.load(cache.array("val", 2))
    for (image, label), sample in zip(records, source.open("val"), strict=True):
        assert np.array_equal(image, sample[0]) and label == sample[1]


def test_whatever_changes_the_content_changes_the_folder(pictures, tmp_path):
    caches = [
        Cache(tmp_path, pictures(), RAW),
        Cache(tmp_path, pictures(count=151), RAW),
        Cache(tmp_path, pictures(), {**RAW, "train": Storage(jpeg_quality=80)}),
    ]
    assert len({cache.folder for cache in caches}) == 3
    assert caches[0].folder == Cache(tmp_path, pictures(), RAW).folder


def test_a_file_that_changed_later_is_written_again(kind, pictures, tmp_path, capsys):
    cache = Cache(tmp_path, pictures(), RAW)
    path = prepare(kind, cache)
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-1] ^= 1
    for damaged in (content, content[:-5000]):
        path.write_bytes(damaged)
        prepare(kind, cache)
        assert "has changed since it was written: it is written again" in capsys.readouterr().out
        assert len(path.read_bytes()) == len(whole) and path.read_bytes() != content  # places may differ


def reverse(path):
    records = np.load(path)
    records["label"] = records["label"][::-1].copy()
    np.save(path, records)


@pytest.mark.parametrize("limit", [1 << 30, 10])  # bytes; larger files are recognised by their times
@pytest.mark.parametrize(
    "damage", [reverse, lambda path: path.write_bytes(path.read_bytes()[:-8]), lambda path: path.unlink()]
)
def test_labels_that_changed_later_are_written_again(pictures, tmp_path, capsys, monkeypatch, damage, limit):
    monkeypatch.setattr("mrl_experiments.files.LARGE", limit)
    cache = Cache(tmp_path, pictures(), RAW)
    path = cache.array("train", 2)
    expected = np.load(path)
    damage(path)
    assert cache.array("train", 2) == path
    assert "has changed since it was written: it is written again" in capsys.readouterr().out
    assert np.array_equal(np.load(path), expected)


@pytest.mark.parametrize("exchanged", ["splits", "folders"])
def test_files_exchanged_together_with_their_manifests_are_written_again(kind, exchanged, pictures, tmp_path):
    cache = Cache(tmp_path, pictures(), RAW)
    other = Cache(tmp_path, pictures(), {**RAW, "train": Storage(jpeg_quality=80)})
    path = prepare(kind, cache)
    theirs = prepare(kind, cache, "val") if exchanged == "splits" else prepare(kind, other)
    whole = path.read_bytes()
    for one, two in ((path, theirs), (manifest_path(path), manifest_path(theirs))):
        ours = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(ours)
    assert cache.described["train"]["place"] == f"{path.parent.name}/{path.name}"
    prepare(kind, Cache(tmp_path, pictures(), RAW))
    assert json.loads(manifest_path(path).read_text())["place"] == f"{path.parent.name}/{path.name}"
    assert len(path.read_bytes()) == len(whole)
    if kind == "array":  # where in a .beton file an image lies depends on the processes that wrote it
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[]", b'{"bytes": 3}', b"{", b'{"sha256": []}'])
def test_a_damaged_manifest_makes_its_files_written_again(kind, pictures, tmp_path, content):
    cache = Cache(tmp_path, pictures(), RAW)
    path = prepare(kind, cache)
    manifest_path(path).write_bytes(content)
    prepare(kind, cache)
    assert json.loads(manifest_path(path).read_text())["samples"] == 150


def test_a_kill_before_the_manifest_is_written_is_made_good(kind, pictures, tmp_path, monkeypatch):
    cache = Cache(tmp_path, pictures(), RAW)

    def killed(target, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mrl_experiments.data.artifact_cache.write_json", killed)
        prepare(kind, cache)
    path = prepare(kind, cache)
    assert json.loads(manifest_path(path).read_text())["bytes"] == path.stat().st_size


def test_a_prepared_cache_that_can_only_be_read_serves(kind, pictures, tmp_path):
    source = pictures()
    prepare(kind, Cache(tmp_path / "cache", source, RAW))
    for lock in tmp_path.glob("cache/*/.*.lock"):
        lock.unlink()
    with read_only(tmp_path / "cache", tmp_path / "seen") as seen:
        assert prepare(kind, Cache(seen, source, RAW)).exists()
        with pytest.raises(UserError, match="read-only"):
            prepare(kind, Cache(seen, source, RAW), "val")


@pytest.mark.parametrize("given", ["", None])
def test_no_cache_is_the_usual_one_and_not_the_current_folder(given, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("MRL_DATA", "")
    assert cache_folder(given) == Path("/home/someone/.cache/mrl-experiments")
    assert cache_folder("~/data") == Path("/home/someone/data")

    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match="MRL_DATA="):
        cache_folder(given)


def test_processes_that_prepare_at_once_write_once(kind, pictures, tmp_path):
    source = pictures(opened=tmp_path / "opened")
    alone = pictures(opened=tmp_path / "alone")
    prepare(kind, Cache(tmp_path / "alone_cache", alone, RAW))
    context = mp.get_context("fork")
    processes = [context.Process(target=prepare, args=(kind, Cache(tmp_path, source, RAW))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert source.opened.read_text() == alone.opened.read_text()


class Slow(Sequence):
    """A source of small images, which from the hundredth on take their time and are told of."""

    name, num_classes, channels, size, splits = "slow", 2, 1, 16, ("train",)

    def __init__(self, begun=None):
        self.begun = begun

    def identity(self):
        return {}

    def manifest(self, split):
        return {}

    def open(self, split):
        return self

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if self.begun and index > 100:
            self.begun.touch()
            time.sleep(0.01)
        return np.full((16, 16, 1), index % 251, dtype=np.uint8), index % 2


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_writer_leaves_nothing_that_is_taken_and_no_process(kind, tmp_path):
    begun = tmp_path / "begun"
    cache = tmp_path / "cache"
    writer = mp.get_context("fork").Process(target=prepare, args=(kind, Cache(cache, Slow(begun), RAW)))
    writer.start()
    while not begun.exists() or len(workers := children(writer.pid)) < 2:
        assert writer.is_alive()
        time.sleep(0.05)
    writer.kill()
    writer.join()
    (folder,) = cache.iterdir()
    assert all(name.endswith(".part") for name in files(folder))

    path = prepare(kind, Cache(cache, Slow(), RAW))  # waits for those that the writer had begun
    assert not any(runs(pid) for pid in workers)
    assert path.exists() and not any(name.endswith(".part") for name in files(folder))


def test_too_small_a_disk_is_noticed_before_anything_is_written(kind, pictures, tmp_path):
    source = pictures(size=64, count=1000)  # 12 MB
    with tiny_disk(tmp_path / "disk", 4) as disk:
        with pytest.raises(UserError, match=r"0\.0 GB free"):
            prepare(kind, Cache(disk, source, RAW))
        assert not any(files(folder) for folder in disk.iterdir())


def test_a_disk_that_fills_up_meanwhile_keeps_nothing(kind, pictures, tmp_path):
    source = pictures(size=64, count=1000)
    samples = source.open("train")
    source.open, source.size = lambda split: samples, None  # so that the space needed is not known before
    with tiny_disk(tmp_path / "disk", 6) as disk:
        with pytest.raises(UserError, match="no space left"):
            prepare(kind, Cache(disk, source, RAW))
        assert not any(files(folder) for folder in disk.iterdir())


class Endless(Sequence):
    """One small image, repeated more often than any disk has bytes."""

    def __len__(self):
        return 1 << 60

    def __getitem__(self, index):
        return np.zeros((16, 16, 3), np.uint8), 0


def test_the_space_needed_is_said(tmp_path, pictures, kind, monkeypatch):
    source = pictures()
    monkeypatch.setattr(source, "open", lambda split: Endless())
    with pytest.raises(UserError, match=r"data\.cache="):
        prepare(kind, Cache(tmp_path / "not" / "there", source, RAW))


def test_files_are_read_once_before_they_are_used(tmp_path, pictures, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    source = pictures()
    samples = [*source.open("val"), (broken, 1)]
    monkeypatch.setattr(source, "open", lambda split: samples)
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        Cache(tmp_path, source, RAW).files("val", 2)
    samples.pop()
    assert Cache(tmp_path, source, RAW).files("val", 2) is samples
